"""Commands run for many files or items: those of `find`, `fd`, `xargs` and `parallel`.

A pattern below each start path of a search describes the selected files: `start/**` for all of them, `start/**/*.log`
for those with a name, `start/**/?*` for those with some other property, such as an age.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from luthien_litellm_hooks.policies.shell.model import Command, Runs, Word

MAX_ITEMS = 100
MAX_BATCH_CHARACTERS = 100_000
"""Limit of the text made of one command and its items; a longer one is not read."""

UNKNOWN = Word("$xargs", is_resolved=False)
"""Item of an unknown input."""

XARGS_VALUED = frozenset(
    {"-I", "-n", "-P", "-L", "-d", "-s", "-a", "-E", "-J", "-R", "-S", "--max-args", "--max-procs"}
    | {"--max-lines", "--max-chars", "--delimiter", "--arg-file", "--process-slot-var"}
)
XARGS_MARK = re.compile(r"-[0rtpox]*(?:([IJ])(.*)|i(.*))|--replace(?:=(.*))?", re.DOTALL)
PARALLEL_VALUED = frozenset(
    {"-j", "--jobs", "-P", "--max-procs", "-a", "--arg-file", "-n", "-N", "-L", "-d", "--delimiter"}
    | {"-C", "--colsep", "-I", "--delay", "--timeout", "--retries", "--joblog", "--results"}
    | {"--tmpdir", "-S", "--sshlogin", "--workdir", "--wd", "--load", "--memfree", "--halt", "--block"}
    | {"--recstart", "--recend", "--env", "--tagstring"}
)
PARALLEL_MARK = re.compile(r"\{(?:[#%]|\d*[./]{0,2}|\d*/\.)\}")
SOURCE = re.compile(r":::\+?|::::\+?")
CODE_OPTION = re.compile(r"-[a-z]*c")


def runs_of_xargs(command: Command) -> Iterator[Runs]:
    """Yields the commands of `xargs`: one for each item with a mark (`-I{}`), else one with all items."""
    mark, index = "", 0
    words = command.words
    options: list[str] = []
    while index < len(words) and words[index].text.startswith("-") and words[index].text != "--":
        text = words[index].text
        options.append(text)
        index += 1
        if found := XARGS_MARK.fullmatch(text):
            mark = found[2] or found[3] or found[4] or "{}"
            if found[1] and not found[2] and index < len(words):
                mark = words[index].text
                index += 1
        elif text in XARGS_VALUED or (len(text) > 2 and text[-2:] in ("0n", "0P", "0L", "0I", "rn", "rP")):
            options.append(words[index].text if index < len(words) else "")
            index += 1
    run = words[index + (index < len(words) and words[index].text == "--") :]
    if not run:
        return
    items = _items(command, options, is_by_line=bool(mark))
    if mark and any(mark in word.text for word in run):
        yield from _for_each(run, items, mark)
        return
    yield (*run, *items)
    if CODE_OPTION.fullmatch(run[-1].text) and len(items) > 1 and command.stdin is not None:
        yield (*run, command.stdin)


def _items(command: Command, options: list[str], *, is_by_line: bool) -> tuple[Word, ...]:
    text = command.stdin
    is_from_file = any(option.startswith(("-a", "--arg-file")) for option in options)
    if text is None or not text.is_resolved or is_from_file:
        return (UNKNOWN,)
    if any(re.fullmatch(r"-[rtpox]*0.*|--null", option) for option in options):
        parts = text.text.split("\0")
    elif is_by_line or any(option.startswith(("-d", "--delimiter", "-L", "-l")) for option in options):
        parts = text.text.split("\n")
    else:
        parts = re.sub(r"[\"']", "", text.text).split(None, MAX_ITEMS)
    parts = [part.strip() for part in parts if part.strip()]
    return tuple(map(Word, parts[:MAX_ITEMS])) if len(parts) <= MAX_ITEMS else (*map(Word, parts[:MAX_ITEMS]), UNKNOWN)


def _for_each(run: tuple[Word, ...], items: tuple[Word, ...], mark: str) -> Iterator[Runs]:
    count = sum(word.text.count(mark) for word in run)
    length = sum(len(word.text) for word in run)
    if sum(length + count * len(item.text) for item in items) > MAX_BATCH_CHARACTERS:
        yield ()
        return
    for item in items:
        yield tuple(
            Word(word.text.replace(mark, item.text), word.is_resolved and item.is_resolved)
            if mark in word.text
            else word
            for word in run
        )


def runs_of_parallel(command: Command) -> Iterator[Runs]:
    """Yields the script of `parallel` for each item after `:::`, or of its input; without a template an item is a
    script."""
    words, index = command.words, 0
    while index < len(words) and words[index].text.startswith("-"):
        index += 2 if words[index].text in PARALLEL_VALUED else 1
    rest = words[index:]
    sources = [at for at, word in enumerate(rest) if SOURCE.fullmatch(word.text)]
    template = rest[: sources[0]] if sources else rest
    if not sources:
        items = _items(command, [], is_by_line=True)
    elif any(rest[at].text.startswith("::::") for at in sources):
        items = (UNKNOWN,)
    else:
        items = tuple(word for word in rest[sources[0] :] if not SOURCE.fullmatch(word.text))[: MAX_ITEMS + 1]
    length = sum(len(word.text) for word in template)
    if len(items) > MAX_ITEMS or sum(length + 8 * len(item.text) for item in items) > MAX_BATCH_CHARACTERS:
        yield ()
        return
    for item in items:
        yield from _of_template(template, item)


def _of_template(template: tuple[Word, ...], item: Word) -> Iterator[Runs]:
    """Yields the script of one item. A shell's `-c` also gets its words as they are, as most people expect."""
    if not template:
        yield item
        return
    has_mark = any(PARALLEL_MARK.search(word.text) for word in template)
    words = template if has_mark else (*template, Word("{}"))
    quoted = Word(shlex.quote(item.text), True) if item.is_resolved else item
    yield _script(tuple(_filled(word, quoted) for word in words))
    if any(CODE_OPTION.fullmatch(word.text) for word in template[1:]):
        yield tuple(_filled(word, item) for word in words)


def _filled(word: Word, item: Word) -> Word:
    if not PARALLEL_MARK.search(word.text):
        return word
    return Word(PARALLEL_MARK.sub(lambda _: item.text, word.text), word.is_resolved and item.is_resolved)


def _script(words: tuple[Word, ...]) -> Word:
    return Word(" ".join(word.text for word in words), all(word.is_resolved for word in words))


MAX_SELECTIONS = 16
"""Limit of the alternatives of one search; more of them count as all files."""
MAX_SEARCH_CHARACTERS = 100_000
"""Limit of the text that replaces `{}` in one search."""
MAX_DEPTH = 40

ALL = ""
SOME = "?*"
"""Pattern of files that only a property tells apart."""

NAME_TESTS = frozenset({"-name", "-iname", "-path", "-ipath", "-wholename", "-iwholename", "-regex", "-iregex"})
PROPERTY_TESTS = frozenset(
    {"-inum", "-newer", "-anewer", "-cnewer", "-size", "-mtime", "-mmin", "-atime", "-amin"}
    | {"-ctime", "-cmin", "-perm", "-user", "-uid", "-group", "-gid", "-links", "-samefile", "-lname"}
    | {"-ilname", "-xtype", "-used", "-fstype", "-context"}
)
PLAIN_TESTS = frozenset({"-empty", "-nouser", "-nogroup", "-executable", "-readable", "-writable"})
OTHER_VALUED = frozenset({"-maxdepth", "-mindepth", "-printf", "-fprint", "-fprint0", "-fls", "-files0-from", "-D"})
EXECUTING = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
PRINTING = frozenset({"-print", "-print0", "-printf", "-ls"})


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a search, and the files it acts on. `words` is the command of `-exec`."""

    name: str
    found: tuple[Word, ...]
    words: tuple[Word, ...] = ()

    def runs(self) -> Iterator[tuple[Word, ...]]:
        """Yields the command of `-exec`, with the files instead of `{}`; nothing in it if that is too long."""
        length = sum(len(item.text) + 1 for item in self.found)
        if sum(word.text.count("{}") for word in self.words) * length > MAX_SEARCH_CHARACTERS:
            yield ()
        elif any("{}" in word.text and word.text != "{}" for word in self.words):
            for item in self.found:
                yield tuple(_replaced(word, item) for word in self.words)
        else:
            yield tuple(new for word in self.words for new in (self.found if word.text == "{}" else (word,)))


def _replaced(word: Word, item: Word) -> Word:
    if "{}" not in word.text:
        return word
    return Word(word.text.replace("{}", item.text), word.is_resolved and item.is_resolved)


def actions_of_find(words: Sequence[Word]) -> tuple[Action, ...]:
    """Returns the actions of `find`, each with the files that its part of the expression selects.

    A search without an action prints.
    """
    count = next((index for index, word in enumerate(words) if not _is_start(word.text)), len(words))
    starts = tuple(word for word in words[:count] if word.text not in ("-H", "-L", "-P", "-d", "-E", "-x"))
    return _Expression(starts or (Word("."),), words[count:]).read()


def _is_start(text: str) -> bool:
    return text in ("-H", "-L", "-P", "-d", "-E", "-x") or text[:1] not in ("-", "(", "!")


def found_by_find(words: Sequence[Word]) -> tuple[Word, ...] | None:
    """Returns the files that `find` prints; None if it prints none."""
    printed = [action.found for action in actions_of_find(words) if action.name in PRINTING]
    return tuple(dict.fromkeys(word for found in printed for word in found)) if printed else None


@dataclass(slots=True)
class _Expression:
    """Reader of a `find` expression: `and` binds closer than `or`, and each action sees the tests before it."""

    starts: tuple[Word, ...]
    words: Sequence[Word]
    index: int = 0
    is_start_alone: bool = False
    actions: list[Action] = field(default_factory=list[Action])

    def read(self) -> tuple[Action, ...]:
        texts = [word.text for word in self.words]
        self.is_start_alone = any(pair == ("-maxdepth", "0") for pair in pairwise(texts))
        selected = (ALL,)
        while self.index < len(self.words):
            selected = self._alternatives((ALL,), 0)
            self.index += 1
        if not self.actions:
            self._act("-print", selected)
        return tuple(self.actions)

    def _alternatives(self, before: tuple[str, ...], depth: int) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        current = before
        is_negated = False
        while self.index < len(self.words) and (text := self.words[self.index].text) != ")":
            self.index += 1
            if text in ("-o", "-or", ","):
                found, current = (*found, *current), before
            elif text in ("!", "-not"):
                is_negated = not is_negated
                continue
            elif text == "(" and depth < MAX_DEPTH:
                inner = self._alternatives(current, depth + 1)
                self.index += 1
                current = current if is_negated else inner
            else:
                current = self._primary(text, current, is_negated=is_negated)
            is_negated = False
        return _bounded((*found, *current))

    def _primary(self, text: str, current: tuple[str, ...], *, is_negated: bool) -> tuple[str, ...]:
        """Reads a test or an action; returns the files that are left after it."""
        if text in EXECUTING:
            start = self.index
            while self.index < len(self.words) and not self._ends_command():
                self.index += 1
            self._act(text, current, tuple(self.words[start : self.index]))
            self.index += 1
            return current
        value = ""
        is_valued = text in NAME_TESTS or text in PROPERTY_TESTS or text in OTHER_VALUED or text.startswith("-newer")
        if (is_valued or text == "-type") and self.index < len(self.words):
            value = self.words[self.index].text
            self.index += 1
        if text in PRINTING or text == "-delete":
            self._act(text, current)
            return current
        return tuple(_narrowed(pattern, text, value, is_negated=is_negated) for pattern in current)

    def _ends_command(self) -> bool:
        text = self.words[self.index].text
        return text == ";" or (text == "+" and self.words[self.index - 1].text.endswith("{}"))

    def _act(self, name: str, selected: tuple[str, ...], words: tuple[Word, ...] = ()) -> None:
        found = (
            self.starts
            if self.is_start_alone and ALL in selected
            else tuple(below(start, pattern) for start in self.starts for pattern in dict.fromkeys(selected))
        )
        if sum(len(word.text) for word in found) > MAX_SEARCH_CHARACTERS:
            found = tuple(below(start, ALL) for start in self.starts)
        self.actions.append(Action(name, found, words))


def below(start: Word, pattern: str) -> Word:
    """Returns the files below `start` whose name matches `pattern`."""
    path = f"{start.text.rstrip('/')}/**" if start.text != "/" else "/**"
    return Word(f"{path}/{pattern}" if pattern else path, start.is_resolved)


def _narrowed(pattern: str, test: str, value: str, *, is_negated: bool) -> str:
    """Returns the pattern of the files that match `pattern` and pass the test."""
    if test in NAME_TESTS:
        name = value.rstrip("/").rsplit("/", 1)[-1].replace(".*", "*").replace("\\", "") if value else ""
        is_known = not is_negated and is_selective(name)
        if "path" in test or "whole" in test or "regex" in test:
            is_known = not is_negated and is_selective(value.replace("/", ""))
            name = name if is_selective(name) else SOME
        return name if is_known and pattern in (ALL, SOME) else pattern
    is_property = test in PROPERTY_TESTS or test in PLAIN_TESTS or test.startswith("-newer")
    if test == "-type":
        is_property = not {"f", "d"} & set(value.split(",")) and bool(value)
    elif (test in PLAIN_TESTS and is_negated) or (test == "-size" and value.startswith("+0")):
        is_property = False
    return SOME if is_property and pattern == ALL else pattern


def is_selective(pattern: str) -> bool:
    """Tells if a pattern for names leaves out some files."""
    in_set = False
    for character in pattern:
        if character in "[]":
            in_set = character == "["
        elif (in_set and not (character.isalnum() or character in "-!^:")) or (
            not in_set and character not in "*?.^$()|+"
        ):
            return True
    return False


def _bounded(selected: tuple[str, ...]) -> tuple[str, ...]:
    unique = tuple(dict.fromkeys(selected))
    return unique if len(unique) <= MAX_SELECTIONS else (ALL,)


FD_VALUED = frozenset(
    {"-e", "--extension", "-t", "--type", "-d", "--max-depth", "--maxdepth", "--min-depth"}
    | {"--exact-depth", "-E", "--exclude", "-S", "--size", "-c", "--color", "-j", "--threads", "-o"}
    | {"--owner", "--changed-within", "--changed-before", "--newer", "--older", "--base-directory"}
    | {"--search-path", "--path-separator", "--format", "--ignore-file", "--max-results"}
    | {"--batch-size"}
)
FD_EXECUTING = frozenset({"-x", "-X", "--exec", "--exec-batch"})
FD_PROPERTIES = ("-S", "--size", "--changed-", "--newer", "--older", "-o", "--owner")


def actions_of_fd(words: Sequence[Word]) -> tuple[Action, ...]:
    """Returns the actions of `fd PATTERN [PATH ...] [-x COMMAND ...]`; without a command it prints."""
    end = next((index for index, word in enumerate(words) if word.text in FD_EXECUTING), len(words))
    operands: list[Word] = []
    extension = ""
    places: list[Word] = []
    has_property = False
    option = ""
    for word in words[:end]:
        name, has_value, value = word.text.partition("=")
        if option or (has_value and name in FD_VALUED):
            name, value = (option, word.text) if option else (name, value)
            extension = value if name in ("-e", "--extension") else extension
            if name in ("--search-path", "--base-directory"):
                places.append(Word(value, word.is_resolved))
            option = ""
        elif word.text in FD_VALUED:
            option = word.text
        elif not word.text.startswith("-"):
            operands.append(word)
        has_property = has_property or word.text.startswith(FD_PROPERTIES)
    name = operands[0].text if operands else ""
    pattern = f"*.{extension}" if extension else f"*{name}*" if is_selective(name) else SOME if has_property else ALL
    found = tuple(below(place, pattern) for place in (*operands[1:], *places) or (Word("."),))
    command = tuple(word for word in words[end + 1 :] if word.text != ";")
    if not command:
        return (Action("-print", found),)
    if not any("{" in word.text for word in command):
        command = (*command, Word("{}"))
    return (Action("-exec", found, tuple(Word("{}") if word.text == "{/}" else word for word in command)),)


def found_by_fd(words: Sequence[Word]) -> tuple[Word, ...] | None:
    """Returns the files that `fd` prints; None if it runs a command."""
    (action,) = actions_of_fd(words)
    return action.found if action.name == "-print" else None
