"""Losses of work by a command: by lines of a catalogue, by a statement for a database, by deleting the project."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from types import MappingProxyType

from luthien_litellm_hooks.policies.shell.batches import actions_of_find
from luthien_litellm_hooks.policies.shell.dangers import deletes, recursive_targets
from luthien_litellm_hooks.policies.shell.launchers import INTERPRETERS, PYTHON
from luthien_litellm_hooks.policies.shell.model import Command, Word
from luthien_litellm_hooks.policies.shell.paths import is_project, is_within, is_working_tree, joined_path, operands_of

RUNNERS = (
    frozenset(
        {"npm", "npx", "pnpm", "pnpx", "yarn", "bun", "bunx", "deno", "tsx", "ts-node", "turbo", "nx", "lerna", "rush"}
        | {"bundle", "spring", "composer", "sail", "lando", "ddev", "wp-env", "heroku", "docker", "podman", "nerdctl"}
        | {"poetry", "pipenv", "uv", "uvx", "pipx", "pdm", "hatch", "rye", "pixi", "mise", "asdf", "direnv", "devbox"}
        | {"docker-compose", "podman-compose", "nix", "doppler", "op", "infisical", "chamber", "aws-vault", "dotenv"}
        | {"dotenvx", "envdir", "teller", "atmos", "rtk", "microk8s", "k3s", "minikube", "foreman", "overmind"}
        | {"dotnet", "nodejs", "winpty", "corepack", "volta", "fnm"}
    )
    | INTERPRETERS
)
"""Programs that run the program or the script named in their words, such as `php artisan` and `pnpm exec prisma`."""
MAX_SUFFIXES = 20
"""Words of a runner that may name its program."""
MAX_WORD = 4_096
"""Length of the longest word to compare; longer ones name no file and no command."""

VALUED_LETTERS = MappingProxyType({"git": "bBcCmFeo"})
"""Letters of options whose value may follow directly."""

_ANY = "..."
_HELP = frozenset({"--help", "-help", "--version"})
_FALSE = frozenset({"false", "none", "no", "0", "off"})
_SCRIPT_ENDS = (".cmd", ".js", ".cjs", ".mjs", ".phar")
_SHORTEST, _LONGEST = len("--har"), len("--pathspec-from-file")
"""Length of the shortest beginning that git takes for an option, and of its longest option here."""


class Catalogue:
    """Commands that lose work, by their kind, each written like a command on a line.

    Its programs come first, then words in their order, and flags in any place. `|` separates alternatives, words are
    globs in any case, and `...` means any words. A flag is also found in a cluster, and with its value as
    `--name=value`. With a flag or a word after `!` the command is harmless.
    """

    def __init__(self, lines_by_kind: Mapping[str, str]) -> None:
        self._entries: dict[str, list[_Entry]] = {}
        for kind, lines in lines_by_kind.items():
            for line in filter(None, map(str.strip, lines.splitlines())):
                programs, *parts = line.split()
                entry = _Entry.parse(kind, parts)
                for program in programs.split("|"):
                    self._entries.setdefault(program, []).append(entry)
        self._flags = {
            program: frozenset(flag for entry in entries for flag in entry.all_flags)
            for program, entries in self._entries.items()
        }

    def kinds_of(self, command: Command) -> Iterator[str]:
        """Yields the kinds of work that `command` loses."""
        for program, texts in readings_of(command):
            entries = self._entries.get(program, ())
            given = _given(texts, VALUED_LETTERS.get(program, "")) if entries else frozenset[str]()
            if program == "git":
                given |= _spelt_out(given, self._flags[program])
            if not _asks_for_help(texts, given):
                yield from (entry.kind for entry in entries if entry.matches(texts, given))


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: str
    words: tuple[re.Pattern[str] | None, ...]
    """None means any words."""
    flags: tuple[tuple[str, ...], ...]
    harmless_flags: tuple[str, ...]
    harmless_words: re.Pattern[str] | None

    @classmethod
    def parse(cls, kind: str, parts: Sequence[str]) -> "_Entry":
        harmless = [part[1:] for part in parts if part.startswith("!")]
        required = [part for part in parts if not part.startswith("!")]
        words = [text for text in harmless if not _is_flag(text)]
        return cls(
            kind,
            tuple(None if part == _ANY else _glob(part.split("|")) for part in required if not _is_flag(part)),
            tuple(tuple(part.split("|")) for part in required if _is_flag(part)),
            tuple(filter(_is_flag, harmless)),
            _glob(words) if words else None,
        )

    @property
    def all_flags(self) -> Iterator[str]:
        yield from (flag for flags in self.flags for flag in flags)
        yield from self.harmless_flags

    def matches(self, texts: Sequence[str], given: frozenset[str]) -> bool:
        if not all(any(_has(flag, given) for flag in flags) for flags in self.flags):
            return False
        if any(_has(flag, given) for flag in self.harmless_flags) or not self._words_match(texts):
            return False
        return self.harmless_words is None or not any(map(self.harmless_words.fullmatch, texts))

    def _words_match(self, texts: Sequence[str]) -> bool:
        """Tells if the words are there in their order.

        A word after a flag may be its value, and is skipped if it does not match.
        """
        place, is_value = 0, False
        for text in texts:
            if place == len(self.words):
                return True
            is_any = self.words[place] is None
            wanted = self.words[place + is_any]
            may_skip = is_any or is_value or text == "--"
            is_value = _is_flag(text) and "=" not in text
            if _is_flag(text):
                continue
            if wanted is not None and len(text) <= MAX_WORD and wanted.fullmatch(text):
                place += 1 + is_any
            elif not may_skip:
                return False
        return place == len(self.words)


def _glob(alternatives: Sequence[str]) -> re.Pattern[str]:
    texts = (r"(?!--\Z).+" if text == "?*" else translate(text) for text in alternatives)
    return re.compile("|".join(texts), re.IGNORECASE)


def _is_flag(text: str) -> bool:
    return len(text) > 1 and text.startswith("-") and text != "--"


def readings_of(command: Command) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the program and its words; those of a runner also from each of its words."""
    texts = command.texts
    for name in _names(command.program if command.is_name_resolved else ""):
        yield name, texts
    if command.name in RUNNERS or PYTHON.fullmatch(command.name):
        for index, text in enumerate(texts[:MAX_SUFFIXES]):
            for name in _names(text):
                yield name, texts[index + 1 :]


def _names(program: str) -> Iterator[str]:
    """Yields the name of a program without its place, its version and its ending; also the scope of a package."""
    scope, _, rest = program.partition("/")
    if scope.startswith("@") and rest:
        yield scope[1:]
    base = re.split(r"[/\\]", program[-MAX_WORD:])[-1]
    name = re.split(r"[@:]", base.removesuffix(".exe"))[0].lower()
    yield next((name.removesuffix(end) for end in _SCRIPT_ENDS if name.endswith(end)), name)


def _asks_for_help(texts: Sequence[str], given: frozenset[str]) -> bool:
    is_first_or_last = "help" in (*texts[:1], *texts[-1:])
    return not _HELP.isdisjoint(given) or texts[-1:] == ("-h",) or is_first_or_last


def _given(texts: Sequence[str], valued: str) -> frozenset[str]:
    """Returns the flags: as written, each letter of a cluster, and with their values as `--name=value`.

    A letter of `valued` ends a cluster, because its value follows.
    """
    found: set[str] = set()
    for index, text in enumerate(texts):
        if not _is_flag(text):
            continue
        name, has_value, value = text.partition("=")
        found.add(text)
        if has_value and value.lower() not in _FALSE:
            found.add(name)
        if cluster := re.match(rf"-(?:(?![{valued}])[A-Za-z0-9])*[{valued}]?" if valued else r"-[A-Za-z0-9]+\Z", text):
            found |= {f"-{letter}" for letter in cluster[0][1:]}
            found.add(f"{text[:2]}={text[2:]}")
        if not has_value and index + 1 < len(texts):
            found.add(f"{text}={texts[index + 1]}")
    return frozenset(found)


def _spelt_out(given: frozenset[str], known: frozenset[str]) -> frozenset[str]:
    """Returns the `known` options that `given` abbreviates, such as `--har`."""
    short = [text for text in given - known if _SHORTEST <= len(text) <= _LONGEST and text.startswith("--")]
    return frozenset(flag for text in short for flag in known if flag.startswith(text))


def _has(flag: str, given: frozenset[str]) -> bool:
    return flag in given or ("*" in flag and any(fnmatchcase(text, flag) for text in given))


# Deletions of the project itself

TOP_LEVEL = re.compile(
    r"(?:\$\(git rev-parse --(?:show-toplevel|git-dir|absolute-git-dir)\)|\$\{?(?:OLDPWD|GIT_DIR|GIT_WORK_TREE"
    r"|GITHUB_WORKSPACE|CI_PROJECT_DIR|CLAUDE_PROJECT_DIR|INIT_CWD|WORKSPACE|(?:PROJECT|REPO)_?(?:ROOT|DIR|PATH))\}?"
    r"|%CD%)/?(?:\.?\*|\.)?"
)
"""Unresolved texts that name a project."""


def deletes_project(command: Command, directory: str = "") -> bool:
    """Tells if `command` deletes a whole project, its repository, or the working directory.

    The script runs in `directory`; "" if that is unknown.
    """
    return any(_is_work(command, target, directory) for target in _deleted(command))


def _deleted(command: Command) -> tuple[Word, ...]:
    """Returns the places that `command` deletes with all below them, or the files of the working directory."""
    name, texts = command.name.lower(), command.texts
    if name == "find":
        return tuple(word for action in actions_of_find(command.words) if deletes(action) for word in action.found)
    if name == "git":
        is_recursive = any(re.fullmatch(r"-[a-z]*r[a-z]*", text) for text in texts)
        is_removal = texts[:1] == ("rm",) and is_recursive and not {"--cached", "-n", "--dry-run"} & set(texts)
        return operands_of(command)[1:] if is_removal else ()
    if name == "rsync" and any(text.startswith("--delete") for text in texts):
        return operands_of(command)[-1:]
    targets = recursive_targets(command)
    if targets is not None:
        return targets
    return tuple(word for word in operands_of(command) if "*" in word.text) if name in ("rm", "unlink", "shred") else ()


def _is_work(command: Command, target: Word, directory: str) -> bool:
    here = command.directory
    if not target.is_resolved:
        return TOP_LEVEL.fullmatch(target.text) is not None
    if not here.is_resolved and not TOP_LEVEL.fullmatch(here.text):
        return False
    path, searched, names = joined_path(here.text if here.is_resolved else ".", target.text).partition("**")
    if searched and names.strip("*/"):
        return False
    path = path if not searched else path.rstrip("/") or "."
    known = [text for text in (directory, here.text) if text.startswith(("/", "~"))]
    return is_working_tree(path) or is_project(path) or any(is_within(place, path) for place in known)
