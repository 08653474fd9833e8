"""Programs running another program, or a script, from their arguments."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import dropwhile
from types import MappingProxyType

from luthien_litellm_hooks.policies.shell.batches import actions_of_fd, actions_of_find, runs_of_parallel, runs_of_xargs
from luthien_litellm_hooks.policies.shell.interpreters import effects_of_code, shell_calls
from luthien_litellm_hooks.policies.shell.javascript import Program
from luthien_litellm_hooks.policies.shell.model import Command, Runs, Word
from luthien_litellm_hooks.policies.shell.node import runs_of_program
from luthien_litellm_hooks.policies.shell.python import runs_of_python

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "mksh", "fish", "rbash", "csh", "tcsh"})
PYTHON = re.compile(r"(?:python|pypy)[\d.]*(?:\.exe)?|py")
JAVASCRIPT = frozenset({"node", "nodejs", "deno", "bun", "tsx", "ts-node", "qjs", "electron"})
INTERPRETERS = frozenset({"perl", "ruby", "php", "lua", "osascript"}) | JAVASCRIPT
AWK = frozenset({"awk", "gawk", "mawk", "nawk"})
STANDARD_INPUT = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
SAME_SHELL = frozenset({"eval", "source", ".", "trap", "builtin", "command", "exec", "time"})
"""Programs whose inner commands run in the same shell: their assignments and their `cd` outlive them."""

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
        "runuser": "-u --user -g -G",
        "uv": "--with --python -p --extra --group",
        "poetry": "",
        "pipenv": "",
        "docker": "-u --user -w --workdir -e --env -v --volume --name --entrypoint --network -p --mount --platform",
        "podman": "-u --user -w --workdir -e --env -v --volume --name --entrypoint --network -p --mount --platform",
        "docker-compose": "-f --file -p --project-name -u --user -w --workdir -e --env -v --volume --name --entrypoint",
        "podman-compose": "-f --file -p --project-name -u --user -w --workdir -e --env -v --volume --name --entrypoint",
        "nerdctl": "-u --user -w --workdir -e --env -v --volume --name --entrypoint --network -p --mount --platform",
        "npm": "-p --package -w --workspace",
        "bunx": "-p --package",
        "ssh": "-p -i -o -l -F -J -L -R -D -b -c -E -m -S -W -w",
        "watch": "-n --interval",
        "setpriv": "--reuid --regid --groups --inh-caps --bounding-set --securebits --pdeathsig --selinux-label",
        "prlimit": "-p --pid -o --output",
        "choom": "-n --adjust -p --pid",
        "cpulimit": "-l --limit -p --pid -e --exe",
        "numactl": "-N -m -C --cpunodebind --membind --physcpubind",
        "setarch": "",
        "linux32": "",
        "linux64": "",
        "dbus-run-session": "--config-file --dbus-daemon",
        "dbus-launch": "",
        "ssh-agent": "-a -t -E -P",
        "firejail": "",
        "gosu": "",
        "su-exec": "",
        "pkexec": "--user",
        "eatmydata": "",
        "catchsegv": "",
        "faketime": "-f",
        "torify": "",
        "rlwrap": "-a -b -f -H",
        "dumb-init": "",
        "tini": "-p -e",
        "sshpass": "-p -f -d -P",
        "retry": "-t -n --tries --times --delay --sleep",
        "ts": "-L -N -D -W",
        "sem": "-j --jobs --id",
        "dotenv": "-f -e",
        "bundle": "",
        "mise": "-C --cd",
        "npx": "-p --package",
        "pnpm": "-C --dir",
        "yarn": "",
        "conda": "-n --name -p --prefix",
        "pdm": "-p --project",
        "hatch": "-e --env",
        "rye": "",
        "pixi": "-e --environment",
        "perf": "-e -o -p",
        "valgrind": "",
        "uvx": "--from --with",
        "aa-exec": "-p --profile",
        "softlimit": "-m -d -s -l -a -o -p -t -f -c",
        "setlock": "",
        "chpst": "-u -U -e -/ -n -l -L -m -d -o -p -f -c",
        "capsh": "",
    }
)
"""Wrappers, with those options whose value is the next word."""

LEADING = MappingProxyType(
    {"timeout": 1, "gtimeout": 1, "chroot": 1, "flock": 1, "chrt": 1, "taskset": 1, "ssh": 1, "docker": 1, "podman": 1}
    | {"gosu": 1, "su-exec": 1, "faketime": 1, "setarch": 1, "setlock": 1}
    | {"docker-compose": 1, "podman-compose": 1, "nerdctl": 1}
)
"""Number of a wrapper's own words before the program: a duration, a directory, a host, an image."""

SUBCOMMANDS = MappingProxyType(
    {"docker": ("exec", "run"), "podman": ("exec", "run"), "uv": ("run",), "poetry": ("run",), "pipenv": ("run",)}
    | {"bundle": ("exec",), "mise": ("exec", "x"), "pnpm": ("exec", "dlx"), "yarn": ("exec", "dlx"), "npm": ("exec",)}
    | {"pdm": ("run",), "hatch": ("run",), "rye": ("run",), "pixi": ("run",), "perf": ("stat", "record", "trace")}
    | {"docker-compose": ("exec", "run"), "podman-compose": ("exec", "run"), "nerdctl": ("exec", "run")}
    | {"conda": ("run",)}
)
"""Programs that run another program only with these subcommands."""

JOINED = frozenset({"ssh", "watch"})
"""Wrappers for words of a shell script."""

ALIAS = re.compile(r"alias\.([\w-]+)=")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")


def runs_of(command: Command) -> Iterator[Runs]:
    """Yields the scripts and programs `command` runs, as far as its arguments and input show them."""
    name, texts = command.name, command.texts
    if name in SHELLS:
        yield from _shell(command)
    elif name in ("eval", "iex"):
        yield _joined(command.words)
    elif name == "trap" and len(texts) > 1:
        yield command.words[0]
    elif name in SCRIPTED and (script := _option(command, "-c", "--command")):
        yield script
    elif (name in READING and command.stdin is not None) or (
        name in ("source", ".") and command.stdin is not None and STANDARD_INPUT & set(texts[:1])
    ):
        yield command.stdin
    elif name in ("cmd", "powershell", "pwsh"):
        yield from _windows_shell(command)
    elif name in ("find", "fd", "fdfind"):
        actions = actions_of_find(command.words) if name == "find" else actions_of_fd(command.words)
        for action in actions:
            if action.words:
                yield from action.runs()
    elif name == "xargs":
        yield from runs_of_xargs(command)
    elif name == "parallel":
        yield from runs_of_parallel(command)
    elif name == "kubectl" and "exec" in texts and "--" in texts:
        yield command.words[texts.index("--") + 1 :]
    elif name == "start-stop-daemon":
        yield from _daemon(command)
    elif PYTHON.fullmatch(name):
        yield from _python(command)
    elif name in JAVASCRIPT:
        yield from _javascript(command)
    elif name in INTERPRETERS or name in AWK:
        yield from _other_language(command)
    elif name == "git":
        yield from _git(command)
    elif name in VALUED_OPTIONS:
        yield from _wrapped(command)


SCRIPTED = frozenset({"su", "script", "runuser", "sg", "newgrp", "flock"})
"""Programs with a script as the value of an option."""
READING = frozenset({"su", "newgrp", "at", "batch"})
"""Programs that run their standard input as a script."""


def _daemon(command: Command) -> Iterator[Runs]:
    texts = command.texts
    index = next((at for at, text in enumerate(texts) if text in ("-x", "--exec", "-a", "--startas")), len(texts))
    if {"-S", "--start"} & set(texts):
        yield tuple(word for word in command.words[index + 1 :] if word.text != "--")


def _joined(words: tuple[Word, ...]) -> Word:
    return Word(" ".join(word.text for word in words), all(word.is_resolved for word in words))


def script_file_of(command: Command) -> Word | None:
    """Returns the script file of a shell; None if the shell reads its standard input or has `-c`."""
    if command.name in ("source", "."):
        return command.words[0] if command.words else None
    if command.name not in SHELLS or _option(command, "-c", "--command"):
        return None
    words = _after_options(command.words, frozenset({"-o", "-O", "+o", "+O", "--rcfile", "--init-file"}))
    if not words or "-s" in command.texts or words[0].text in STANDARD_INPUT:
        return None
    return words[0]


def positional_of(command: Command) -> tuple[Word, ...]:
    """Returns the words after the script of a shell's `-c`: `$0`, `$1`, and so on."""
    script = _option(command, "-c", "--command") if command.name in SHELLS else None
    if script is None:
        return ()
    place = next(index for index, word in enumerate(command.words) if word is script)
    return command.words[place + 1 :]


def _shell(command: Command) -> Iterator[Runs]:
    if script := _option(command, "-c", "--command"):
        yield script
    elif command.stdin is not None and script_file_of(command) is None:
        yield command.stdin


def _option(command: Command, *names: str) -> Word | None:
    """Returns the value of an option, also in a cluster (`-lc`) or after an equals sign (`--command=x`)."""
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
    """Returns `words` from the first that is neither an option nor the value of one."""
    index = 0
    while index < len(words) and words[index].text[:1] in ("-", "+") and len(words[index].text) > 1:
        if words[index].text == "--":
            return words[index + 1 :]
        index += 2 if _takes_next(words[index].text, valued) else 1
    return words[index:]


def _takes_next(option: str, valued: frozenset[str]) -> bool:
    """Tells if the next word is the value of `option`, also of the last letter of a cluster (`-fNR`)."""
    if option in valued:
        return True
    letters = [f"-{letter}" in valued for letter in option[1:]] if option[1:].isalpha() and option[0] == "-" else []
    return len(letters) > 1 and letters[-1] and not any(letters[:-1])


def _windows_shell(command: Command) -> Iterator[Runs]:
    for index, text in enumerate(command.texts):
        if text.lower() in ("/c", "/k", "-command", "-c"):
            yield _joined(command.words[index + 1 :])
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
        yield split
    rest = _after_options(words, valued)
    rest = rest[LEADING.get(name, 0) :]
    if name in ("sudo", "env", "doas", "command", "exec"):
        rest = tuple(dropwhile(lambda word: ASSIGNMENT.match(word.text) or word.text == "-", rest))
    if name in ("npx", "npm", "pnpm", "yarn", "bunx") and (rest or "-c" in command.texts):
        script = _option(command, "-c", "--call")
        rest = (Word("sh"), Word("-c"), script) if script else rest
    if name == "capsh":
        after = command.texts.index("--") + 1 if "--" in command.texts else len(words)
        rest = (Word("bash"), *command.words[after:]) if command.words[after:] else ()
    if rest:
        yield _joined(rest) if name in JOINED else rest
    elif name in ("ssh", "sudo") and command.stdin is not None and not {"-l", "-v", "-N"} & set(command.texts):
        yield command.stdin


def _git(command: Command) -> Iterator[Runs]:
    """Yields the commands of `git submodule foreach`, `bisect run` and `rebase --exec`, and of an alias set for one
    call (`git -c alias.x=...  x`)."""
    words, texts = command.words, command.texts
    if "foreach" in texts and "submodule" in texts:
        yield _joined(_after_options(words[texts.index("foreach") + 1 :], frozenset()))
    elif texts[:2] == ("bisect", "run"):
        yield words[2:]
    elif "rebase" in texts and (script := _long_option(words, "-x", "--exec")):
        yield script
    for index, text in enumerate(texts):
        found = ALIAS.match(text)
        if found and texts[index - 1] == "-c" and found[1] in texts[index + 1 :]:
            value, rest = text[found.end() :], words[texts.index(found[1], index) + 1 :]
            call = Word(value[1:] if value.startswith("!") else f"git {value}", words[index].is_resolved)
            yield _joined((call, *(Word(quoted(word), word.is_resolved) for word in rest)))


def _long_option(words: tuple[Word, ...], *names: str) -> Word | None:
    for index, word in enumerate(words):
        if word.text in names and index + 1 < len(words):
            return words[index + 1]
        for name in names:
            if word.text.startswith(name + ("=" if name.startswith("--") else "")) and word.text != name:
                return Word(word.text[len(name) :].removeprefix("="), word.is_resolved)
    return None


def _python(command: Command) -> Iterator[Runs]:
    code = _code(command)
    if code is None:
        return
    runs = runs_of_python(code.text)
    if runs is not None:
        yield from runs
        return
    yield from shell_calls(code.text)  # an older Python, or a part of one
    yield from effects_of_code(code.text, code.text)


def _javascript(command: Command) -> Iterator[Runs]:
    code = _code(command)
    program = Program.read(code.text) if code is not None else None
    if program is not None:
        yield from runs_of_program(program)
    elif code is not None:
        yield ()
    if program is None or code is None or not program.has_error:
        return
    yield from shell_calls(code.text)  # types, or a part of JavaScript that the grammar does not know
    yield from effects_of_code(code.text, code.text)


def _other_language(command: Command) -> Iterator[Runs]:
    if command.name in AWK:
        words = _after_options(command.words, frozenset({"-F", "-v", "-f", "--field-separator", "--assign"}))
        code = words[0] if words else None
    else:
        code = _code(command)
    if code is not None:
        yield from shell_calls(code.text)
    if code is not None and command.name not in AWK:
        yield from effects_of_code(code.text, " ".join((*command.texts, code.text)))


CODE_OPTIONS = MappingProxyType(
    {
        **dict.fromkeys(("perl", "ruby", "lua", "osascript"), ("-e", "-E")),
        **dict.fromkeys(JAVASCRIPT, ("-e", "-p", "-pe", "--eval", "--print", "eval")),
        "php": ("-r", "-B", "-R", "-E", "--run"),
    }
)
PYTHON_OPTIONS = ("-c",)


@cache
def _cluster(options: tuple[str, ...]) -> re.Pattern[str]:
    """Returns the pattern of short options in one word, up to the first for code."""
    letters = "".join(option[1] for option in options if len(option) == 2)
    return re.compile(rf"-[a-zA-Z0-9]*?[{letters}]")


def _code(command: Command) -> Word | None:
    """Returns the code in an interpreter's options, several joined, or on its standard input."""
    options = CODE_OPTIONS.get(command.name, PYTHON_OPTIONS)
    found: list[Word] = []
    for index, word in enumerate(command.words):
        name, has_value, value = word.text.partition("=")
        cluster = _cluster(options).match(word.text)
        if word.text in options or (cluster is not None and cluster.end() == len(word.text)):
            following = command.words[index + 1 :]
            found += tuple(dropwhile(lambda each: each.text.startswith("--"), following))[:1]
        elif has_value and name in options:
            found.append(Word(value, word.is_resolved))
        elif cluster is not None and re.match(r"-\w\W|-\w\w+[ (;$]", word.text) and command.name not in JAVASCRIPT:
            found.append(Word(word.text[2:], word.is_resolved))
    if found:
        return Word("\n".join(word.text for word in found), all(word.is_resolved for word in found))
    has_file = any(not text.startswith("-") for text in command.texts)
    return None if has_file or command.stdin is None else command.stdin


def quoted(word: Word) -> str:
    """Returns `word` quoted: a shell reads the same word again."""
    return shlex.quote(word.text) if word.is_resolved else word.text
