"""What a command prints, where its text alone tells: `echo`, `printf`, and filters of a known input."""

import base64
import binascii
import re
from collections import deque

from luthien_litellm_hooks.parsing.shell_escapes import without_escapes
from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_words import MAX_VALUE, TooMuchError
from luthien_litellm_hooks.parsing.shell_wrappers import found_by

TEMPORARY = Word("mktemp.XXXXXXXXXX")
"""Stands for whatever `mktemp` makes."""
FILTERS = frozenset({"rev", "base64", "openssl", "xxd"})
"""Programs whose output is worked out from what they read."""
CONVERSION = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?([sbdqciuxX%])")


def output_of(command: Command) -> Word | None:
    """What `command` prints; None if unknown."""
    match command.name:
        case "echo":
            return _echo(command.words)
        case "printf":
            return _printf(command.words)
        case "pwd":
            return command.directory if command.directory.text else Word(".")
        case "mktemp" if not any("/" in text for text in command.texts):
            return TEMPORARY
        case "which" | "command" if command.texts and not command.texts[-1].startswith("-"):
            return command.words[-1]
        case "find" if "-name" in command.texts and "-exec" not in command.texts:
            found = found_by(command.words)
            return Word("\n".join(word.text for word in found), all(word.is_resolved for word in found))
        case _:
            return _filtered(command)


def _echo(words: tuple[Word, ...]) -> Word:
    options = ""
    while words and re.fullmatch(r"-[neE]+", words[0].text):
        options, words = options + words[0].text, words[1:]
    text = " ".join(word.text for word in words)
    return Word(without_escapes(text) if "e" in options else text, all(word.is_resolved for word in words))


def _printf(words: tuple[Word, ...]) -> Word | None:
    if words and words[0].text == "--":
        words = words[1:]
    if not words or words[0].text == "-v":
        return None
    template, arguments = without_escapes(words[0].text), deque(word.text for word in words[1:])
    parts: list[str] = []
    length = 0
    while True:
        before = len(arguments)
        parts.append(CONVERSION.sub(lambda found: _converted(found[1], arguments), template))
        length += len(parts[-1])
        if length > MAX_VALUE:
            raise TooMuchError
        if not arguments or len(arguments) == before:
            return Word("".join(parts), all(word.is_resolved for word in words))


def _converted(conversion: str, arguments: deque[str]) -> str:
    if conversion == "%":
        return "%"
    text = arguments.popleft() if arguments else ""
    return without_escapes(text) if conversion == "b" else text


def _filtered(command: Command) -> Word | None:
    if command.stdin is None or any(not word.is_resolved for word in command.words):
        return None
    text, options = command.stdin.text, command.texts
    match command.name:
        case "cat" | "tee" if command.name == "tee" or all(option.startswith("-") for option in options):
            return command.stdin
        case "rev":
            return Word("\n".join(line[::-1] for line in text.split("\n")), command.stdin.is_resolved)
        case "base64" if {"-d", "-D", "--decode", "-di"} & set(options):
            return _decoded(text)
        case "openssl" if {"-d"} <= set(options) and {"base64", "-base64", "-a"} & set(options):
            return _decoded(text)
        case "xxd" if "r" in "".join(options) and "p" in "".join(options):
            return _from_hexadecimal(text)
        case _:
            return None


def _decoded(text: str) -> Word | None:
    try:
        return Word(base64.b64decode(re.sub(r"\s", "", text)).decode())
    except (binascii.Error, ValueError):
        return None


def _from_hexadecimal(text: str) -> Word | None:
    try:
        return Word(bytes.fromhex(text).decode())
    except ValueError:
        return None
