"""Which paths commands write to, and which commands reach the network."""

import re
from collections.abc import Iterator, Sequence

from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_paths import joined_path

WRITING_OPERATORS = frozenset({">", ">>", ">|", "&>", "&>>", ">&", "<>"})
LAST_IS_WRITTEN = frozenset({"cp", "mv", "install", "ln", "rsync", "scp"})
ALL_ARE_WRITTEN = frozenset(
    {"tee", "touch", "truncate", "rm", "unlink", "rmdir", "shred", "srm", "mkdir", "chattr", "sponge", "ed", "ex"}
)
REST_IS_WRITTEN = frozenset({"chmod", "chown", "chgrp", "setfacl"})
VALUED = frozenset(
    {"-s", "--size", "-m", "--mode", "-o", "--owner", "-g", "--group", "-S", "--suffix", "-e", "-n", "-r"}
)

NETWORK_PROGRAMS = frozenset(
    {"curl", "wget", "nc", "ncat", "netcat", "telnet", "ssh", "scp", "sftp"}
    | {"ftp", "lftp", "tftp", "aria2c", "http", "https", "httpie", "xh", "lynx"}
    | {
        "w3m",
        "links",
        "elinks",
        "socat",
        "rclone",
        "mosh",
        "iwr",
        "irm",
        "invoke-webrequest",
        "invoke-restmethod",
        "start-bitstransfer",
    }
)
GIT_NETWORK = frozenset({"clone", "push", "fetch", "pull", "ls-remote"})
URL = re.compile(r"(?:https?|ftp|ftps|ssh|git|sftp|wss?)://[^\s'\"<>|;]+", re.IGNORECASE)
REMOTE = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//)")


def written_paths(commands: Sequence[Command]) -> tuple[str, ...]:
    """The paths that `commands` write, create, move onto, change the mode of or delete, `~` kept as it is.

    A path is seen from where the script began. One that cannot be resolved is given as it was written.
    """
    return tuple(dict.fromkeys(path for command in commands for path in _written_by(command)))


def _written_by(command: Command) -> Iterator[str]:
    for word in (*written_words(command), *deleted_words(command)):
        yield joined_path(command.directory.text, word.text) if word.is_resolved else word.text


def redirected_words(command: Command) -> Iterator[Word]:
    """The files that the redirections of `command` write."""
    for redirect in command.redirects:
        is_descriptor = redirect.operator == ">&" and redirect.target.text.rstrip("-").isdigit()
        if redirect.operator in WRITING_OPERATORS and not is_descriptor:
            yield redirect.target


def written_words(command: Command) -> Iterator[Word]:
    """The arguments that `command` writes to, and the targets of its redirections; not what it only deletes."""
    yield from redirected_words(command)
    name, operands = command.name, operands_of(command)
    if name in LAST_IS_WRITTEN:
        target = _target_directory(command)
        yield from [target] if target else operands[-1:] if len(operands) > 1 else []
    elif name == "dd":
        yield from (Word(word.text[3:], word.is_resolved) for word in command.words if word.text.startswith("of="))
    elif name in REST_IS_WRITTEN or (
        name in ("sed", "perl") and any(re.match(r"-[a-zA-Z]*i|--in-place", text) for text in command.texts)
    ):
        yield from operands[1:] or operands
    elif name in ("curl", "wget"):
        yield from _saved(command)
    elif name in ALL_ARE_WRITTEN and name not in DELETING:
        yield from operands


DELETING = frozenset({"rm", "unlink", "rmdir", "shred", "srm"})


def deleted_words(command: Command) -> Iterator[Word]:
    """The arguments that `command` deletes or moves away."""
    if command.name in DELETING:
        yield from operands_of(command)
    elif command.name == "mv":
        yield from operands_of(command)[:-1] or operands_of(command)


def operands_of(command: Command) -> tuple[Word, ...]:
    """The words that are no options."""
    found: list[Word] = []
    valued = frozenset[str]() if command.name in DELETING else _valued(command.name)
    is_value = has_ended = False
    for word in command.words:
        if has_ended or (not is_value and (not word.text.startswith("-") or word.text == "-")):
            found.append(word)
        has_ended = has_ended or word.text == "--"
        is_value = not is_value and not has_ended and word.text in valued
    return tuple(found)


def _valued(name: str) -> frozenset[str]:
    return VALUED if name in ("truncate", "install", "touch", "mkdir") else frozenset()


def _target_directory(command: Command) -> Word | None:
    for index, word in enumerate(command.words):
        if word.text in ("-t", "--target-directory") and command.name != "rsync":
            return command.words[index + 1] if index + 1 < len(command.words) else None
        if word.text.startswith("--target-directory="):
            return Word(word.text.partition("=")[2], word.is_resolved)
    return None


def _saved(command: Command) -> Iterator[Word]:
    """Where `curl -o` and `wget -O` put what they fetch."""
    options = ("-o", "--output") if command.name == "curl" else ("-O", "--output-document")
    for index, word in enumerate(command.words):
        is_cluster = re.fullmatch(rf"-[a-zA-Z]*{options[0][1]}", word.text) is not None
        if (is_cluster or word.text == options[1]) and index + 1 < len(command.words):
            yield command.words[index + 1]
        elif word.text.startswith(f"{options[1]}="):
            yield Word(word.text.partition("=")[2], word.is_resolved)


def contacts_network(command: Command) -> bool:
    """Whether `command` is there to reach other hosts; package managers do not count."""
    texts = command.texts
    if any(redirect.target.text.startswith(("/dev/tcp/", "/dev/udp/")) for redirect in command.redirects):
        return True
    if command.name.lower() in NETWORK_PROGRAMS:
        return True
    if command.name == "rsync":
        return any(REMOTE.match(word.text) or "://" in word.text for word in operands_of(command))
    if command.name == "git":
        return any(text in GIT_NETWORK for text in texts)
    return command.name == "openssl" and "s_client" in texts


def urls(command: Command) -> tuple[str, ...]:
    """The URLs among the words of `command`."""
    return tuple(dict.fromkeys(url for text in command.texts for url in URL.findall(text)))
