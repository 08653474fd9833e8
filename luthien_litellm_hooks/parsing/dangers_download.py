"""Code from elsewhere run unseen: a download, or something decoded, handed to a shell or an interpreter."""

import re

from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_origins import Origins
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


class Downloads:
    """What a script downloads, and what becomes of it. To be asked about its commands in their order."""

    def __init__(self) -> None:
        self._saved: set[str] = set()
        self._downloads = Origins(_is_download)
        self._decoders = Origins(_decodes)

    def danger(self, command: Command) -> str | None:
        """Why what `command` runs comes from elsewhere; None if it does not."""
        sources = _sources_of_code(command)
        if self._downloads.among(sources):
            return f"a download run unseen by {command.program}"
        if command.stdin is None and self._decoders.among(sources):
            return f"something decoded, which cannot be read, run by {command.program}"
        if _file_run(command) in self._saved:
            return f"a download run unseen ({command.program})"
        if _is_download(command):
            self._saved |= _saved_by_download(command)
        elif self._downloads.among(command.fed_by):
            self._saved |= {joined_path(command.directory.text, word.text) for word in written_words(command)}
        return None


def _is_download(command: Command) -> bool:
    return command.name.lower() in DOWNLOADERS


def _sources_of_code(command: Command) -> tuple[Command, ...]:
    """The commands whose output `command` runs as code, as it comes out of them."""
    name = command.name.lower()
    is_interpreter = PYTHON.fullmatch(name) is not None or name in INTERPRETERS
    if name in EVALUATORS:
        return (*command.built_from, *(command.fed_by if name in ("iex", "source", ".") else ()))
    if name not in SHELLS and not is_interpreter:
        return ()
    has_code = any(CODE_OPTION.fullmatch(text) for text in command.texts)
    file = script_file_of(command) if name in SHELLS else _first_operand(command)
    if has_code or (file is not None and not file.is_resolved):
        return command.built_from
    if file is None or file.text in ("-", "/dev/stdin"):
        return (*command.fed_by, *command.built_from)
    return ()


def _first_operand(command: Command) -> Word | None:
    return next((word for word in command.words if not word.text.startswith("-")), None)


def _decodes(command: Command) -> bool:
    options = set(command.texts)
    if command.name in ("gunzip", "zcat", "uudecode"):
        return True
    letters = "".join(text for text in options if text.startswith("-"))
    return command.name in DECODERS and bool({"-d", "-D", "--decode", "-di", "--decrypt"} & options or "r" in letters)


def _file_run(command: Command) -> str:
    file = script_file_of(command) or (_first_operand(command) if PYTHON.fullmatch(command.name) else None)
    return joined_path(command.directory.text, file.text if file else command.program)


def _saved_by_download(command: Command) -> set[str]:
    """The files that a download writes."""
    named = {word.text for word in (*written_words(command), *redirected_words(command))}
    is_by_url = command.name == "wget" or any(
        re.fullmatch(r"-[a-zA-Z]*O|--remote-name", text) for text in command.texts
    )
    if is_by_url and not (named and command.name == "wget"):
        named |= {url.partition("?")[0].rsplit("/", 1)[-1] for url in urls(command)}
    return {joined_path(command.directory.text, name) for name in named}
