"""Programs that run another program, or a script, that their arguments give."""

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from types import MappingProxyType

from luthien_litellm_hooks.parsing.shell_calls import shell_calls
from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_python import Runs, runs_of_python

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "mksh", "fish", "rbash", "at", "batch"})
PYTHON = re.compile(r"(?:python|pypy)[\d.]*(?:\.exe)?|py")
INTERPRETERS = frozenset({"perl", "ruby", "node", "nodejs", "deno", "bun", "php", "lua", "osascript"})

VALUED_OPTIONS = MappingProxyType(
    {
        "sudo": "-u --user -g --group -h --host -p --prompt -C -D --chdir -R --chroot -T -r -t -U",
        "doas": "-u -C",
        "run0": "-u --user",
        "env": "-u --unset -C --chdir",
        "nice": "-n --adjustment",
        "ionice": "-c -n -p",
        "nohup": "",
        "timeout": "-s --signal -k --kill-after",
        "gtimeout": "-s --signal -k --kill-after",
        "time": "-f -o",
        "command": "",
        "builtin": "",
        "exec": "-a",
        "coproc": "",
        "stdbuf": "-i -o -e",
        "unbuffer": "",
        "setsid": "",
        "caffeinate": "-t -w",
        "fakeroot": "",
        "proxychains": "-f",
        "proxychains4": "-f",
        "torsocks": "",
        "strace": "-e -o -p -s",
        "ltrace": "-e -o -p -s",
        "chroot": "",
        "unshare": "",
        "nsenter": "-t --target",
        "systemd-run": "-u --unit -p --property -E --setenv",
        "systemd-inhibit": "",
        "flock": "-w --timeout -E",
        "chrt": "",
        "taskset": "",
        "busybox": "",
        "toybox": "",
        "xargs": "-I -n -P -L -d -s -a -E --max-args --max-procs --delimiter --arg-file --replace",
        "runuser": "-u --user -g -G",
        "uv": "--with --python -p --extra --group",
        "poetry": "",
        "pipenv": "",
        "docker": "-u --user -w --workdir -e --env -v --volume --name --entrypoint --network -p --mount --platform",
        "podman": "-u --user -w --workdir -e --env -v --volume --name --entrypoint --network -p --mount --platform",
        "ssh": "-p -i -o -l -F -J -L -R -D -b -c -E -m -S -W -w",
        "watch": "-n --interval",
        "parallel": "-j --jobs",
    }
)
"""Wrappers, and those of their options that take the next word as a value."""

LEADING = MappingProxyType(
    {"timeout": 1, "gtimeout": 1, "chroot": 1, "flock": 1, "chrt": 1, "taskset": 1, "ssh": 1, "docker": 1, "podman": 1}
)
"""How many words a wrapper takes for itself before the program: a duration, a directory, a host, an image."""

SUBCOMMANDS = MappingProxyType(
    {"docker": ("exec", "run"), "podman": ("exec", "run"), "uv": ("run",), "poetry": ("run",), "pipenv": ("run",)}
)
"""Programs that run something only under these subcommands."""

JOINED = frozenset({"ssh", "watch", "parallel"})
"""Wrappers that hand their words to a shell."""

MAX_FOUND_CHARACTERS = 100_000
"""Of what `find` puts in place of `{}`; a command that comes to more is not read."""

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")


def runs_of(command: Command) -> Iterator[Runs]:
    """The scripts and programs that `command` runs, as far as its arguments and input tell."""
    name, texts = command.name, command.texts
    if name in SHELLS:
        yield from _shell(command)
    elif name == "eval":
        yield " ".join(texts)
    elif name == "trap" and len(texts) > 1:
        yield texts[0]
    elif name in ("su", "script", "runuser", "flock") and (script := _option(command, "-c", "--command")):
        yield script.text
    elif name == "su" and command.stdin is not None:
        yield command.stdin.text
    elif name in ("cmd", "powershell", "pwsh"):
        yield from _windows_shell(command)
    elif name == "find":
        yield from _find(command.words)
    elif name == "kubectl" and "exec" in texts and "--" in texts:
        yield command.words[texts.index("--") + 1 :]
    elif PYTHON.fullmatch(name):
        yield from _python(command)
    elif name in INTERPRETERS:
        yield from _other_language(command)
    elif name in VALUED_OPTIONS:
        yield from _wrapped(command)


def script_file_of(command: Command) -> Word | None:
    """The file that a shell is told to run; None if it reads its standard input or has `-c`."""
    if command.name in ("source", "."):
        return command.words[0] if command.words else None
    if command.name not in SHELLS or _option(command, "-c", "--command"):
        return None
    words = _after_options(command.words, frozenset({"-o", "-O", "+o", "+O", "--rcfile", "--init-file"}))
    if not words or "-s" in command.texts or words[0].text in ("-", "/dev/stdin", "/dev/fd/0"):
        return None
    return words[0]


def _shell(command: Command) -> Iterator[Runs]:
    if script := _option(command, "-c", "--command"):
        yield script.text
    elif command.stdin is not None and script_file_of(command) is None:
        yield command.stdin.text


def _option(command: Command, *names: str) -> Word | None:
    """The value of an option, also of one in a cluster (`-lc`) or joined to its value (`--command=x`)."""
    letter = names[0][1]
    for index, word in enumerate(command.words):
        is_cluster = word.text[:1] in ("-", "+") and word.text[1:2] not in ("-", "") and letter in word.text[1:]
        if is_cluster or word.text in names:
            rest = _after_options(command.words[index + 1 :], frozenset({"-o", "-O", "+O", "+o"}))
            return rest[0] if rest else None
        for name in names[1:]:
            if word.text.startswith(f"{name}="):
                return Word(word.text.partition("=")[2], word.is_resolved)
    return None


def _after_options(words: tuple[Word, ...], valued: frozenset[str]) -> tuple[Word, ...]:
    """`words` from the first that is neither an option nor the value of one."""
    index = 0
    while index < len(words) and words[index].text[:1] in ("-", "+") and len(words[index].text) > 1:
        if words[index].text == "--":
            return words[index + 1 :]
        index += 2 if words[index].text in valued else 1
    return words[index:]


def _windows_shell(command: Command) -> Iterator[Runs]:
    for index, text in enumerate(command.texts):
        if text.lower() in ("/c", "/k", "-command", "-c"):
            yield " ".join(command.texts[index + 1 :])
            return


def _wrapped(command: Command) -> Iterator[Runs]:
    name, words = command.name, command.words
    valued = frozenset(VALUED_OPTIONS[name].split())
    if name in SUBCOMMANDS:
        position = next((index for index, text in enumerate(command.texts) if text in SUBCOMMANDS[name]), len(words))
        words = words[position + 1 :]
        if name in ("docker", "podman") and (entry := _long_option(words, "--entrypoint")):
            words = (*words, Word("--"), entry, *_after_options(words, valued)[1:])
            yield words[words.index(Word("--")) + 1 :]
    if name == "env" and (split := _long_option(words, "-S", "--split-string")):
        yield split.text
    rest = _after_options(words, valued)
    rest = rest[LEADING.get(name, 0) :]
    if name in ("sudo", "env", "doas", "command", "exec"):
        rest = tuple(dropwhile(lambda word: ASSIGNMENT.match(word.text), rest))
    if name == "xargs":
        rest = _with_input(command, rest)
    elif name == "parallel":
        rest = tuple(Word(text, False) if "{" in (text := word.text) else word for word in rest if word.text != ":::")
    if rest:
        yield " ".join(word.text for word in rest) if name in JOINED else rest
    elif name in ("ssh", "sudo") and command.stdin is not None and not {"-l", "-v", "-N"} & set(command.texts):
        yield command.stdin.text


def _long_option(words: tuple[Word, ...], *names: str) -> Word | None:
    for index, word in enumerate(words):
        if word.text in names and index + 1 < len(words):
            return words[index + 1]
        for name in names:
            if word.text.startswith(name + ("=" if name.startswith("--") else "")) and word.text != name:
                return Word(word.text[len(name) :].removeprefix("="), word.is_resolved)
    return None


def _with_input(command: Command, words: tuple[Word, ...]) -> tuple[Word, ...]:
    """What `xargs` runs: with its input's words, or with one unknown word."""
    unknown = (Word("$xargs", is_resolved=False),)
    is_known = command.stdin is not None and command.stdin.is_resolved
    items = tuple(map(Word, command.stdin.text.split(None, 100)[:100])) if command.stdin and is_known else unknown
    mark = _long_option(command.words, "-I")
    if mark is None:
        return (*words, *items) if words else ()
    return tuple(item for word in words for item in (items if mark.text in word.text else (word,)))


def _find(words: tuple[Word, ...]) -> Iterator[Runs]:
    """What `find -exec` runs, with the places it searches (and the name it searches for) in place of `{}`."""
    texts = [word.text for word in words]
    found = found_by(words)
    length = sum(len(item.text) + 1 for item in found)
    for index, text in enumerate(texts):
        if text in ("-exec", "-execdir", "-ok", "-okdir"):
            end = next((at for at in range(index + 1, len(texts)) if texts[at] in (";", "+")), len(texts))
            run = words[index + 1 : end]
            is_within_bounds = sum(word.text.count("{}") for word in run) * length <= MAX_FOUND_CHARACTERS
            yield tuple(new for word in run for new in _with_found(word, found)) if is_within_bounds else ()


def _with_found(word: Word, found: tuple[Word, ...]) -> tuple[Word, ...]:
    if "{}" not in word.text:
        return (word,)
    return tuple(Word(word.text.replace("{}", item.text), item.is_resolved) for item in found)


def found_by(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """What a `find` with these arguments finds: its start places, with the name it looks for; just the
    places if that would be too long."""
    starts = list(places_of_find(words))
    texts = [word.text for word in words]
    names = [
        texts[index + 1]
        for index, text in enumerate(texts[:-1])
        if text in ("-name", "-iname") and texts[index - 1] not in ("!", "-not") and texts[index + 1] != "*"
    ]
    if not names or len(starts) * len(names[0]) > MAX_FOUND_CHARACTERS:
        return tuple(starts)
    return tuple(Word(f"{start.text.rstrip('/')}/{names[0]}", start.is_resolved) for start in starts)


def places_of_find(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """Where `find` starts; "." if it is not told."""
    starts: list[Word] = []
    for word in words:
        if word.text in ("-H", "-L", "-P"):
            continue
        if word.text[:1] in ("-", "(", "!"):
            break
        starts.append(word)
    return tuple(starts) or (Word("."),)


def _python(command: Command) -> Iterator[Runs]:
    code = _code(command, ("-c",))
    if code is None:
        return
    runs = runs_of_python(code.text)
    yield from shell_calls(code.text) if runs is None else runs


def _other_language(command: Command) -> Iterator[Runs]:
    if code := _code(command, ("-e", "-E", "-r", "--eval", "-p", "eval")):
        yield from shell_calls(code.text)


def _code(command: Command, options: tuple[str, ...]) -> Word | None:
    for index, text in enumerate(command.texts[:-1]):
        is_cluster = re.fullmatch(r"-[a-zA-Z0-9]*" + options[0][1], text) is not None
        if is_cluster or text in options:
            return command.words[index + 1]
    has_file = any(not text.startswith("-") for text in command.texts)
    return None if has_file or command.stdin is None else command.stdin


def quoted(word: Word) -> str:
    """`word` as it must stand in a script to come out the same."""
    return shlex.quote(word.text) if word.is_resolved else word.text
