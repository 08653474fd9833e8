"""Values in JavaScript and Python that are known without a run, and the functions that make texts of texts."""

import base64
import binascii
import json
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from types import MappingProxyType
from typing import ParamSpec, TypeVar, cast

from tree_sitter import Node

from luthien_litellm_hooks.policies.shell.model import UNKNOWN, Runs, Word
from luthien_litellm_hooks.policies.shell.words import PIECE_COST, TooMuchError

K = TypeVar("K")
P = ParamSpec("P")

MAX_ALTERNATIVES = 64
MAX_TEXTS = 1_000_000
"""Characters of all values of one source together, at each use."""
MAX_REPEATED = 131_072
"""Characters of the longest text that is repeated or split."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something from outside the code, by its path: `fs.promises`, `tools.exec_command`."""

    path: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, a boolean or null, as JSON."""

    text: str


@dataclass(frozen=True, slots=True)
class Function:
    node: Node


@dataclass(frozen=True, slots=True)
class Array:
    """A list; each item has all its possible values. Without `is_whole` it may have more items."""

    items: "tuple[Values, ...]" = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Object:
    """An object; each member has all its possible values. Without `is_whole` it may have other members."""

    members: "tuple[tuple[str, Values], ...]" = ()
    is_whole: bool = True

    def get(self, key: str) -> "Values":
        return dict(self.members).get(key, () if self.is_whole else NOTHING_KNOWN)


Value = Word | Literal | Name | Function | Array | Object
Values = tuple[Value, ...]
"""All possible values of an expression."""
NOTHING_KNOWN: Values = (UNKNOWN,)

EVERY = "*"
"""Step of a path to each item or member."""
Step = str | int

MODULE = re.compile(r"^(?:node:)?(.*?)(?:\.js)?$")
MODULES = MappingProxyType(
    {"fs-extra": "fs", "graceful-fs": "fs", "cross-spawn": "child_process.spawn", "shelljs": "shell"}
)
TEXTS_BY_NAME = MappingProxyType(
    {
        "process.env.HOME": "~",
        "process.env.USERPROFILE": "~",
        "Bun.env.HOME": "~",
        "__dirname": ".",
        "import.meta.dirname": ".",
        "path.sep": "/",
        "os.EOL": "\n",
    }
)
ESCAPES = MappingProxyType({"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"})
ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|.))", re.DOTALL)
ARITHMETIC: MappingProxyType[str, Callable[[float, float], float]] = MappingProxyType(
    {"+": operator.add, "-": operator.sub, "*": operator.mul}
)


def text_of(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def word_of(value: Value) -> Word:
    """Returns a value as a text."""
    if isinstance(value, Word):
        return value
    if isinstance(value, Literal):
        return Word(value.text)
    if isinstance(value, Array) and value.is_whole and all(len(item) == 1 for item in value.items):
        words = [word_of(item[0]) for item in value.items]
        return Word(",".join(word.text for word in words), all(word.is_resolved for word in words))
    return UNKNOWN


class Evaluator(ABC):
    """Values of one source, each found once, within limits. All methods raise `TooMuchError` beyond them."""

    def __init__(self) -> None:
        self._characters_left = MAX_TEXTS
        self._known: dict[int, Values] = {}
        self._known_names: dict[str, Values] = {}
        self._computing: set[str] = set()
        self._cuts = 0
        """Number of values left out, because a name needs itself or because of the depth."""

    @abstractmethod
    def _origins_of(self, name: str, depth: int) -> Iterable[Value]:
        """Returns all values that the code gives to a name."""

    def _named(self, name: str, depth: int) -> Values:
        """Returns all possible values of a name; an unknown one within its own origins."""
        if name in self._known_names:
            return self._known_names[name]
        if name in self._computing:
            return self._cut()
        self._computing.add(name)
        found = self._kept(self._known_names, name, self._origins_of, name, depth)
        self._computing.discard(name)
        return found

    def _kept(
        self, known: dict[K, Values], key: K, find: Callable[P, Iterable[Value]], *args: P.args, **kwargs: P.kwargs
    ) -> Values:
        """Returns the values that `find` finds, and keeps them if it left none out."""
        cuts = self._cuts
        found = self._bounded(find(*args, **kwargs))
        if self._cuts == cuts:
            known[key] = found
        return found

    def _cut(self) -> Values:
        """Leaves a value out."""
        self._cuts += 1
        return NOTHING_KNOWN

    def _bounded(self, found: Iterable[Value]) -> Values:
        """Returns different values; an unknown one if there are too many."""
        different = tuple(dict.fromkeys(found))
        self._charge(sum(PIECE_COST + size_of(value) for value in different))
        return different if len(different) <= MAX_ALTERNATIVES else NOTHING_KNOWN

    def _joined(self, parts: Sequence[Sequence[Word]]) -> Values:
        """Returns every combination of the texts; an unknown one if there are too many."""
        count = 1
        for part in parts:
            count *= max(1, len(part))
            if count > MAX_ALTERNATIVES:
                return NOTHING_KNOWN
        self._charge(count * sum(max((len(word.text) for word in part), default=0) for part in parts))
        combined = product(*(part or (UNKNOWN,) for part in parts))
        return tuple(
            Word("".join(word.text for word in each), all(word.is_resolved for word in each)) for each in combined
        )

    def _charge(self, characters: int) -> None:
        self._characters_left -= characters
        if self._characters_left < 0:
            raise TooMuchError


def each_of(start: tuple[str, ...], parts: Sequence[Sequence[Word]]) -> Iterator[Runs]:
    """Yields a command for each combination of its last words."""
    for words in islice(product(*parts), MAX_ALTERNATIVES):
        yield (*map(Word, start), *words)


def size_of(value: Value) -> int:
    """Counts the characters of a text, or the parts of a list or an object."""
    match value:
        case Word(text) | Literal(text):
            return len(text)
        case Array(items):
            return len(items)
        case Object(members):
            return len(members)
        case _:
            return 0


def plain_values(values: Values) -> list[object]:
    """Returns the values as JSON's; raises `ValueError` if there are too many, or if a part is missing."""
    found = [plain for value in values for plain in _plain(value)]
    if len(found) > MAX_ALTERNATIVES:
        raise ValueError("too many possible values")
    return found


def _plain(value: Value) -> Iterator[object]:
    match value:
        case Word():
            yield value.text
        case Literal():
            yield json.loads(value.text)
        case Array(items, True):
            yield from map(list, _combined([plain_values(item) for item in items]))
        case Object(members, True):
            keys = [key for key, _ in members]
            combined = _combined([plain_values(part) for _, part in members])
            yield from (dict(zip(keys, parts, strict=True)) for parts in combined)
        case _:
            raise ValueError("a part is unknown")


def _combined(parts: Sequence[list[object]]) -> Iterator[tuple[object, ...]]:
    count = 1
    for part in parts:
        count *= len(part)
        if count > MAX_ALTERNATIVES:
            raise ValueError("too many possible values")
    return product(*parts)


def unescaped(text: str) -> str:
    """Returns the text of a literal without its quotes."""
    return ESCAPE.sub(_unescaped, text) if "\\" in text else text


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code is not None:
        number = int(code, 16)
        return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"
    return "" if found[4] in ("\n", "\r\n") else ESCAPES.get(found[4], found[4])


def number(text: str) -> Literal:
    digits = text.replace("_", "").removesuffix("n")
    try:
        value = int(digits, 0) if digits[:2].lower() in ("0x", "0b", "0o") else float(digits)
    except (ValueError, OverflowError):
        return Literal("0")
    return literal(value)


def literal(value: float) -> Literal:
    is_whole = abs(value) < 2**53 and int(value) == value
    return Literal(str(int(value))) if is_whole else Literal(json.dumps(value) if abs(value) < 1e300 else "0")


def computed(sign: str, first: Value, second: Value) -> Value:
    try:
        return literal(ARITHMETIC[sign](float(word_of(first).text), float(word_of(second).text)))
    except (ValueError, OverflowError):
        return UNKNOWN


def module_of(name: str) -> Name:
    plain = cast(re.Match[str], MODULE.match(name))[1].replace("/", ".")
    return Name(MODULES.get(plain, plain))


def part_of(value: Value, step: Step) -> Values:
    """Returns a member or an item of a value."""
    match value:
        case Name(path):
            whole = path if step == "default" else f"{path}.{step}"
            return (Word(TEXTS_BY_NAME[whole]),) if whole in TEXTS_BY_NAME else (Name(whole),)
        case Object():
            if step == EVERY:
                return tuple(part for _, parts in value.members for part in parts)
            return value.get(str(step))
        case Array(items, is_whole):
            if step == EVERY:
                found = tuple(dict.fromkeys(chain(*items)))
                return found if is_whole else (*found, UNKNOWN)
            place = int(step) if str(step).isdecimal() and len(str(step)) < 6 else None
            if place is None or not is_whole:
                return NOTHING_KNOWN
            return items[place] if place < len(items) else ()
        case _:
            return NOTHING_KNOWN


def with_member(value: Value, key: str | None, new: Values) -> Value:
    """Returns an object that may also have another value of a member."""
    if not isinstance(value, Object):
        return Array(value.items, is_whole=False) if isinstance(value, Array) else value
    if key is None:
        return Object(value.members, is_whole=False)
    members = dict(value.members)
    members[key] = tuple(dict.fromkeys((*members.get(key, ()), *new)))
    return Object(tuple(members.items()), value.is_whole)


def listed(value: Value, name: str) -> Value:
    if not isinstance(value, Object):
        return UNKNOWN
    keys: list[Values] = [(Word(key),) for key, _ in value.members]
    if name.endswith("keys"):
        return Array(tuple(keys), value.is_whole)
    parts = [part for _, part in value.members]
    if name.endswith("values"):
        return Array(tuple(parts), value.is_whole)
    return Array(tuple((Array((key, part)),) for key, part in zip(keys, parts, strict=True)), value.is_whole)


def stringified(values: Values) -> list[Value]:
    try:
        plain = plain_values(values)
    except ValueError:
        return [UNKNOWN]
    texts = [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in plain]
    return [Word(text, UNKNOWN.text not in text) for text in texts]


def character(value: Value) -> Word:
    text = word_of(value).text
    return Word(chr(int(text))) if text.isdecimal() and int(text) < 0xD800 else UNKNOWN


def decoded_text(text: str, form: str) -> Word:
    try:
        if form == "hex":
            return Word(bytes.fromhex(text).decode())
        return Word(base64.b64decode(text + "=" * (-len(text) % 4)).decode() if form.startswith("base64") else text)
    except (binascii.Error, ValueError):
        return UNKNOWN


def text_method(text: str, method: str, given: Sequence[str]) -> Sequence[Value]:
    match method, given:
        case ("replace", [old, new]):
            return [Word(text.replace(old, new, 1))]
        case ("replaceAll", [old, new]):
            return [Word(text.replace(old, new))]
        case ("repeat", [times]) if times.isdecimal() and int(times) * len(text) < MAX_REPEATED:
            return [Word(text * int(times))]
        case ("split", [separator]) if len(text) < MAX_REPEATED:
            pieces = text.split(separator) if separator else list(text)
            return [Array(tuple((Word(piece),) for piece in pieces))] if len(pieces) < 1_000 else NOTHING_KNOWN
        case (("slice" | "substring"), _) if given and all(re.fullmatch(r"-?\d{1,6}", each) for each in given):
            return [Word(text[int(given[0]) : int(given[1]) if len(given) > 1 else None])]
        case _:
            return NOTHING_KNOWN
