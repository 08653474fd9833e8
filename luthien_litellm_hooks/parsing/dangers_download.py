"""Code from elsewhere run unseen: a download, or something decoded, handed to a shell or an interpreter."""

import re

from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_paths import joined_path
from luthien_litellm_hooks.parsing.shell_wrappers import INTERPRETERS, PYTHON, SHELLS, script_file_of
from luthien_litellm_hooks.parsing.shell_writes import redirected_words, urls, written_words

DOWNLOADERS = frozenset(
    {"curl", "wget", "fetch", "http", "https", "xh", "aria2c", "lynx", "iwr", "irm", "invoke-webrequest"}
    | {"invoke-restmethod", "nc", "ncat", "netcat", "lwp-request", "ftp", "tftp", "lftp", "scp"}
)
DECODERS = frozenset({"base64", "base32", "xxd", "openssl", "uudecode", "gunzip", "zcat", "gpg"})
EVALUATORS = frozenset({"eval", "source", ".", "iex", "invoke-expression"})
CODE_OPTION = re.compile(r"-[a-zA-Z]*[ceEr]|--eval|--command")


def download_danger(command: Command, downloaded: set[str]) -> str | None:
    """Why what `command` runs comes from elsewhere; None if it does not. Adds to `downloaded` what it saves."""
    origins = _origins_of_code(command)
    if any(origin.name.lower() in DOWNLOADERS for origin in origins):
        return f"a download run unseen by {command.program}"
    if command.stdin is None and any(_decodes(origin) for origin in origins):
        return f"something decoded, which cannot be read, run by {command.program}"
    if _file_run(command) in downloaded:
        return f"a download run unseen ({command.program})"
    downloaded |= _saved(command)
    return None


def _origins_of_code(command: Command) -> tuple[Command, ...]:
    """The commands whose output `command` runs as code."""
    name = command.name.lower()
    is_interpreter = PYTHON.fullmatch(name) is not None or name in INTERPRETERS
    if name in EVALUATORS:
        return _all_feeding((*command.built_from, *(command.fed_by if name in ("iex", "source", ".") else ())))
    if name not in SHELLS and not is_interpreter:
        return ()
    has_code = any(CODE_OPTION.fullmatch(text) for text in command.texts)
    file = script_file_of(command) if name in SHELLS else _first_operand(command)
    if has_code or (file is not None and not file.is_resolved):
        return _all_feeding(command.built_from)
    if file is None or file.text in ("-", "/dev/stdin"):
        return _all_feeding((*command.fed_by, *command.built_from))
    return ()


def _first_operand(command: Command) -> Word | None:
    return next((word for word in command.words if not word.text.startswith("-")), None)


def _all_feeding(commands: tuple[Command, ...]) -> tuple[Command, ...]:
    """`commands`, what feeds them, and so on."""
    found: dict[int, Command] = {}
    waiting = list(commands)
    while waiting:
        command = waiting.pop()
        if id(command) not in found:
            found[id(command)] = command
            waiting += [*command.fed_by, *command.built_from]
    return tuple(found.values())


def _decodes(command: Command) -> bool:
    options = set(command.texts)
    if command.name in ("gunzip", "zcat", "uudecode"):
        return True
    letters = "".join(text for text in options if text.startswith("-"))
    return command.name in DECODERS and bool({"-d", "-D", "--decode", "-di", "--decrypt"} & options or "r" in letters)


def _file_run(command: Command) -> str:
    file = script_file_of(command) or (_first_operand(command) if PYTHON.fullmatch(command.name) else None)
    return joined_path(command.directory.text, file.text if file else command.program)


def _saved(command: Command) -> set[str]:
    """The files that a download, or a command that is fed by one, writes."""
    if command.name.lower() not in DOWNLOADERS:
        is_fed = any(origin.name.lower() in DOWNLOADERS for origin in _all_feeding(command.fed_by))
        return {joined_path(command.directory.text, word.text) for word in written_words(command)} if is_fed else set()
    named = {word.text for word in (*written_words(command), *redirected_words(command))}
    is_by_url = command.name == "wget" or any(
        re.fullmatch(r"-[a-zA-Z]*O|--remote-name", text) for text in command.texts
    )
    if is_by_url and not (named and command.name == "wget"):
        named |= {url.partition("?")[0].rsplit("/", 1)[-1] for url in urls(command)}
    return {joined_path(command.directory.text, name) for name in named}
