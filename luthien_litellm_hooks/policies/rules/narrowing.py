"""The narrowest rules that allow calls which were seen often enough.

An action that repeats gets a rule of its own. Of the others, a rule allows those with the same beginning of a command,
the same folder, host or tool, and none with an effect that was not seen.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast, get_args

from luthien_litellm_hooks.policies.rules import TextPattern
from luthien_litellm_hooks.policies.rules.arguments import read_arguments, text_of
from luthien_litellm_hooks.policies.rules.kinds import PROSE_KEYS, WORKDIR_KEYS, Kind, clean_name, key_of, kinds_of_name
from luthien_litellm_hooks.policies.rules.patterns import CommandPattern, PathPatterns, forms_of_path
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.policies.shell import UNKNOWN_HOST, Command, find_danger, program_of
from luthien_litellm_hooks.policy.patterns import quoted
from luthien_litellm_hooks.wire.events import ToolCall

Json = Mapping[str, Any]

_MOST_WORDS = 3
"""Words of a command in a pattern, beside the program."""
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./:@=+,%-]+")
_LONGEST_CONSTANT = 200
_READERS = frozenset(
    (
        *("basename", "cat", "cd", "cmp", "cut", "df", "diff", "dirname", "du", "echo", "false", "grep"),
        *("head", "jq", "ls", "nl", "pwd", "readlink", "realpath", "stat", "tail", "test", "true", "type"),
        *("wc", "which"),
    )
)
"""Programs that only read and print: a pattern may allow all their arguments."""
_ONLY_EXACT = frozenset(
    (
        *("ansible", "awk", "bash", "bun", "chmod", "chown", "cp", "crontab", "curl", "dash", "dd", "deno"),
        *("doas", "env", "eval", "exec", "expect", "find", "fish", "kill", "killall", "ksh", "lua", "ln"),
        *("mkfs", "mount", "mv", "nc", "ncat", "nice", "node", "nohup", "nsenter", "osascript", "parallel"),
        *("perl", "php", "pkill", "powershell", "pwsh", "python", "python3", "rm", "rsync", "ruby", "scp"),
        *("sed", "sh", "source", "ssh", "sudo", "su", "systemctl", "tee", "time", "timeout", "truncate"),
        *("unshare", "watch", "wget", "xargs", "zsh", ".", "$"),
    )
)
"""Programs that run, fetch or destroy by their arguments: a pattern of the first words would allow anything."""
WAYS_OUT = (
    ("dangerouslyDisableSandbox", "true"),  # Claude Code
    ("sandbox_permissions", "require_escalated"),  # Codex
    ("with_escalated_permissions", "true"),  # Codex of 2025
)
"""Arguments with which agents run a command outside of their sandbox."""
_INSIDE = r"(?:[^/.~$`\\=<-]|\w[/.-]|\./|\.(?:\s|\z)|--?[\w-]+(?:[=\s]|\z)|[12&]?>\s?/dev/null)*"
"""Scripts without variables, and with no path but those below the working directory that are not hidden."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An allowed action, and how often it was seen."""

    call: ToolCall
    count: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule for review, and how many of the seen calls it was made from."""

    rule: Json
    count: int


Values = tuple[tuple[str, str], ...]
"""Arguments and their patterns."""


@dataclass(frozen=True)
class Read:
    """A seen action as rules read it."""

    use: ToolUse
    count: int

    @property
    def members(self) -> Mapping[str, object]:
        arguments = self.use.arguments
        return cast(dict[str, object], arguments) if isinstance(arguments, dict) else {}

    @cached_property
    def script_keys(self) -> Sequence[str]:
        """Arguments that hold scripts for a shell."""
        use = self.use
        return [
            name for name, value in self.members.items() if ToolUse(use.name, {name: value}, use.named_kinds).scripts
        ]

    @cached_property
    def values(self) -> Values:
        """Arguments that decide what the call does, as patterns."""
        scripts = self.script_keys
        return tuple(
            (name, literal(text_of(value)))
            for name, value in self.members.items()
            if name and "." not in name and (name in scripts or _decides(key_of(name), has_script=bool(scripts)))
        )


def _decides(key: str, *, has_script: bool) -> bool:
    return key in WORKDIR_KEYS if has_script else key not in PROSE_KEYS


def propose(seen: Iterable[Seen], min_count: int) -> Sequence[Proposal]:
    """Returns the rules, by tool. An action that cannot be read has none."""
    groups: dict[tuple[str, frozenset[Kind]], list[Read]] = defaultdict(list)
    for one in seen:
        readings = read_arguments(one.call)
        if len(readings) == 1:
            use = ToolUse(one.call.name, readings[0], kinds_of_name(one.call.name))
            groups[use.clean_name, use.kinds].append(Read(use, one.count))
    proposals: list[Proposal] = []
    for (tool, kinds), reads in sorted(groups.items(), key=lambda group: (group[0][0], sorted(group[0][1]))):
        narrow = _way(reads, kinds)
        proposals += narrow(tool, kinds, reads, min_count)
    reads = [read for reads in groups.values() for read in reads]
    return [*_in_the_sandbox(reads), *proposals] if proposals else []


def _in_the_sandbox(reads: Sequence[Read]) -> Iterator[Proposal]:
    """Proposes to block the ways out of a sandbox that were not seen."""
    used = {(name, text_of(value)) for read in reads for name, value in read.members.items()}
    unused = [{"args": {name: text}} for name, text in WAYS_OUT if (name, text) not in used]
    if unused and any("shell" in read.use.kinds for read in reads):
        yield Proposal({"action": "block", "any": unused}, 0)


_Way = Callable[[str, frozenset[Kind], list[Read], int], list[Proposal]]


def _way(reads: Sequence[Read], kinds: frozenset[Kind]) -> _Way:
    """Returns the function for actions of one tool with these effects."""
    if "shell" in kinds:
        return _shell if len(kinds) == 1 else _exact
    if "sql" in kinds:
        return _exact
    if "web" in kinds:
        return _hosts if all(UNKNOWN_HOST not in read.use.hosts for read in reads) else _exact
    return _paths if any(read.use.paths for read in reads) else _tool


def without_other_effects(kinds: frozenset[Kind], **more: object) -> Json:
    """Returns the condition that a call has no effects of other kinds, and none of `more`."""
    others = sorted(set(get_args(Kind)) - kinds)
    conditions = [{"kind": others}, *({name: value} for name, value in more.items())]
    return {"not": conditions[0] if len(conditions) == 1 else {"any": conditions}}


def allowing(tool: str, **conditions: object) -> dict[str, Any]:
    """Returns a rule that allows calls of one tool."""
    return {"action": "allow", "tool": literal(clean_name(tool)), **conditions}


def literal(text: str) -> str:
    """Returns the pattern of just this text."""
    is_plain = text.isascii() and not text.startswith("re:") and not set("*?") & set(text)
    return text if is_plain else f"re:(?s)\\A{quoted(text)}\\z"


# One action


def _exact(tool: str, kinds: frozenset[Kind], reads: list[Read], min_count: int) -> list[Proposal]:
    """Proposes a rule for each action that repeats, whatever its description."""
    counts: dict[Values, int] = defaultdict(int)
    for read in reads:
        if read.values:
            counts[read.values] += read.count
    repeated = [(values, count) for values, count in counts.items() if count >= min_count]
    return [Proposal(allowing(tool, args=dict(values)), count) for values, count in repeated]


# Commands


def _shell(tool: str, kinds: frozenset[Kind], reads: list[Read], min_count: int) -> list[Proposal]:
    """Proposes patterns of commands without other effects, and exact scripts for the rest."""
    exact = {tuple(one.rule["args"].items()): one for one in _exact(tool, kinds, reads, min_count)}
    proposals: list[Proposal] = []
    for key in dict.fromkeys(name for read in reads for name in read.script_keys):
        with_key = [read for read in reads if read.script_keys == [key]]
        inside = _inside(with_key, key, min_count)
        plain = [read for read in with_key if is_plain_script(read.use) and inside.holds(read)]
        fresh = [read for read in plain if read.values not in exact]
        texts = patterns_of(fresh, min_count)
        patterns = [CommandPattern.parse(text) for text in texts]
        passing = [read for read in plain if _passes(read, patterns)]
        if any(read.values not in exact for read in passing):
            rule = allowing(
                tool, commands=texts, args={key: inside.pattern}, **without_other_effects(kinds, dangerous=True)
            )
            proposals.append(Proposal(rule, sum(read.count for read in passing)))
            covered = {read.values for read in passing}
            exact = {values: one for values, one in exact.items() if values not in covered}
    return [*proposals, *exact.values()]


def patterns_of(reads: Iterable[Read], min_count: int) -> list[str]:
    """Returns patterns of the first words of commands that were seen often enough."""
    root = _Words()
    for read in reads:
        for command in dict.fromkeys(read.use.commands):
            root.add((program_of(command), *_first_words(command)), read.count)
    return [" ".join(words) for words in root.patterns(min_count)]


def _passes(read: Read, patterns: Sequence[CommandPattern]) -> bool:
    return all(any(pattern.matches(command) for pattern in patterns) for command in read.use.commands)


@dataclass(frozen=True, slots=True)
class _Inside:
    """Pattern of scripts that stay below the working directory, after a change to a folder that was seen often."""

    key: str
    pattern: str

    def holds(self, read: Read) -> bool:
        return TextPattern(self.pattern).matches(text_of(read.members[self.key]))


def _inside(reads: Iterable[Read], key: str, min_count: int) -> _Inside:
    counts: dict[str, int] = defaultdict(int)
    for read in reads:
        if found := CHANGES_FOLDER.match(text_of(read.members[key])):
            counts[found[1]] += read.count
    folders = "|".join(re.escape(folder) for folder, count in counts.items() if count >= min_count)
    return _Inside(key, f"re:\\A{f'(?:cd (?:{folders}) && )?' if folders else ''}{_INSIDE}\\z")


CHANGES_FOLDER = re.compile(r"cd ([A-Za-z0-9_./-]+) && ")


def is_plain_script(use: ToolUse) -> bool:
    """Tells if the shell's parser understood the script, and its commands are neither dangerous nor made by code."""
    is_dangerous = any(find_danger(script) is not None for script in use.parsed_scripts)
    return bool(use.commands) and use.is_understood and not is_dangerous and not use.inner_calls


def _first_words(command: Command) -> Iterator[str]:
    """Yields the words before the first flag, or the first word that a pattern cannot hold."""
    for word in command.words[:_MOST_WORDS]:
        if not word.is_resolved or word.text.startswith("-") or _PLAIN_WORD.fullmatch(word.text) is None:
            return
        yield word.text


@dataclass(slots=True)
class _Words:
    """Commands by their words: how often they were seen with this beginning."""

    count: int = 0
    after: dict[str, "_Words"] = field(default_factory=dict[str, "_Words"])

    def add(self, words: Sequence[str], count: int) -> None:
        self.count += count
        if words:
            self.after.setdefault(words[0], _Words()).add(words[1:], count)

    def patterns(self, min_count: int) -> list[tuple[str, ...]]:
        """Returns the longest beginnings seen often enough."""
        return [
            (program, *words)
            for program, after in self.after.items()
            if program not in _ONLY_EXACT and _PLAIN_WORD.fullmatch(program)
            for words in after.beginnings(min_count, may_end=program in _READERS)
        ]

    def beginnings(self, min_count: int, *, may_end: bool) -> list[tuple[str, ...]]:
        often = {word: after for word, after in self.after.items() if after.count >= min_count}
        rest = self.count - sum(after.count for after in often.values())
        if may_end and rest >= min_count:
            return [()]
        return [(word, *more) for word, after in often.items() for more in after.beginnings(min_count, may_end=True)]


# Paths


def _paths(tool: str, kinds: frozenset[Kind], reads: list[Read], min_count: int) -> list[Proposal]:
    """Proposes files that repeat, and folders with several files; of hidden files only those that repeat."""
    counts: dict[str, int] = defaultdict(int)
    for read in reads:
        for path in read.use.paths:
            counts[path] += read.count
    plain = {path: count for path, count in counts.items() if is_plain_path(path)}
    root = _Folder()
    for path, count in plain.items():
        if not is_hidden(path):
            root.add(path.split("/"), count)
    folders, _ = root.globs(min_count, ())
    hidden = [path for path, count in plain.items() if is_hidden(path) and count >= min_count]
    exceptions = ["!.*", "!.*/**"] if any(glob.endswith("*") for glob in folders) else []
    proposals: list[Proposal] = []
    for globs in ([*folders, *exceptions] if folders else [], hidden):
        if globs:
            patterns = PathPatterns(globs)
            count = sum(read.count for read in reads if _touches_only(patterns, read.use.paths))
            proposals.append(Proposal(allowing(tool, paths=globs, **without_other_effects(kinds)), count))
    return proposals + _tool(tool, kinds, [read for read in reads if not read.use.paths], min_count)


def _touches_only(patterns: PathPatterns, paths: Sequence[str]) -> bool:
    return bool(paths) and all(patterns.matches(forms_of_path(path)) for path in paths)


def is_plain_path(path: str) -> bool:
    """Tells if the path has no wildcard, and does not climb."""
    return bool(path) and not set("*?[]{}\\!\n") & set(path) and ".." not in path.split("/")


def is_hidden(path: str) -> bool:
    """Tells if the path, or a folder of it, begins with a dot."""
    return any(part.startswith(".") and part != "." for part in path.split("/"))


@dataclass(slots=True)
class _Folder:
    """Files of a folder by their names, and its folders."""

    files: dict[str, int] = field(default_factory=dict[str, int])
    folders: dict[str, "_Folder"] = field(default_factory=dict[str, "_Folder"])

    def add(self, parts: Sequence[str], count: int) -> None:
        if len(parts) == 1:
            self.files[parts[0]] = self.files.get(parts[0], 0) + count
        else:
            self.folders.setdefault(parts[0], _Folder()).add(parts[1:], count)

    def globs(self, min_count: int, above: tuple[str, ...]) -> tuple[list[str], int]:
        """Returns globs for what was seen often enough, and the count of the rest."""
        inside = [folder.globs(min_count, (*above, name)) for name, folder in self.folders.items()]
        often = ["/".join((*above, name)) for name, count in self.files.items() if count >= min_count]
        below = sum(rest for _, rest in inside)
        rest = below + sum(count for count in self.files.values() if count < min_count)
        if rest >= min_count and may_be_whole(above):
            if below:
                return ["/".join((*above, "**"))], 0
            return ["/".join((*above, "*")), *(glob for globs, _ in inside for glob in globs)], 0
        return [*often, *(glob for globs, _ in inside for glob in globs)], rest


_TOO_WIDE = re.compile(r"/?[^/]*|/(?:home|Users|root|var|usr|private|mnt|opt|srv)(?:/[^/]*)?|~")
"""Folders that are a whole system's, or a person's home."""


def may_be_whole(parts: Sequence[str]) -> bool:
    """Tells if a folder is neither a whole system's nor a person's home."""
    folder = "/".join(parts)
    return bool(folder) and (not folder.startswith(("/", "~")) or _TOO_WIDE.fullmatch(folder) is None)


# Hosts, and tools without an effect


def _hosts(tool: str, kinds: frozenset[Kind], reads: list[Read], min_count: int) -> list[Proposal]:
    counts: dict[str, int] = defaultdict(int)
    for read in reads:
        for host in read.use.hosts:
            counts[host] += read.count
    hosts = sorted(host for host, count in counts.items() if count >= min_count)
    count = sum(read.count for read in reads if set(read.use.hosts) <= set(hosts))
    if not count:
        return []
    return [Proposal(allowing(tool, **without_other_effects(kinds, hosts_outside=hosts)), count)]


def _tool(tool: str, kinds: frozenset[Kind], reads: list[Read], min_count: int) -> list[Proposal]:
    """Proposes the actions that repeat, or the tool with the arguments that were always the same."""
    count = sum(read.count for read in reads)
    exact = _exact(tool, kinds, reads, min_count)
    if count < min_count or (exact and sum(one.count for one in exact) == count):
        return exact
    args = {name: literal(text) for name, text in _constants([read.members for read in reads])}
    return [Proposal(allowing(tool, **({"args": args} if args else {}), **without_other_effects(kinds)), count)]


def _constants(calls: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    first, *others = calls
    for name, value in first.items():
        is_short = isinstance(value, str | bool | int | float) and len(text_of(value)) <= _LONGEST_CONSTANT
        is_constant = all(name in other and other[name] == value for other in others)
        if is_short and is_constant and name and "." not in name and key_of(name) not in PROSE_KEYS:
            yield name, text_of(value)
