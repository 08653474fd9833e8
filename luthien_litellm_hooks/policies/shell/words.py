"""Words of a command: quotes, variables, substitutions, braces, escapes, splitting."""

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Protocol

from tree_sitter import Node

from luthien_litellm_hooks.policies.shell.model import UNKNOWN, Word
from luthien_litellm_hooks.policies.shell.syntax import decoded, text_of

MAX_ALTERNATIVES = 32
"""Limit of values for one word, from several values of a variable or from braces."""

MAX_BRACED = 4096
"""Length of the longest word with braces to expand."""

MAX_VALUE = 131_072
"""Length of the longest word: variables cannot double one another without end."""

PIECE_COST = 20
"""Cost of a piece of a word, in characters."""

Value = tuple[Word, ...]
"""Value of a variable: one word, or the elements of an array."""


class TooMuchError(Exception):
    """A script comes to more words, or longer ones, than the reader accepts."""


class Scope(Protocol):
    """Surroundings of a word: variables and substitutions."""

    @property
    def is_assembled(self) -> bool:
        """True for a script that another one put together from unknown values: quotes do not make `$X` literal."""
        ...

    def separators(self) -> str:
        """Returns the characters at which an unquoted expansion is split: the value of IFS."""
        ...

    def values(self, name: str) -> tuple[Value, ...]:
        """Returns every possible value of the variable; empty if unknown."""
        ...

    def substitute(self, node: Node) -> Word:
        """Reads the commands of a substitution and returns their output, as far as it is known."""
        ...

    def charge(self, characters: int) -> None:
        """Counts more characters of values. Raises `TooMuchError`."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a word."""

    text: str
    is_quoted: bool = False
    is_resolved: bool = True
    is_expansion: bool = False
    is_break: bool = False
    """True for the border between two elements of `"$@"`."""


Pieces = tuple[Piece, ...]
BREAK = Piece("", is_break=True)
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(-?\d{1,6})\.\.(-?\d{1,6})")
NAME = re.compile(r"\w+|[@*]")
BLANKS = " \t\n"
PLAIN_COMMAND = re.compile(r"[\w./:,@%+-]+(?:[ \t]+[\w./:,@%+=-]+)*+", re.ASCII)
PLAIN_WORD = re.compile(r"[\w./:,@%+=-]+", re.ASCII)
"""Pattern of a word without special characters, as most are."""
STAND_IN = re.compile("[\U000f0000-\U000fffff]")


def plain_words(command: Node) -> tuple[Word, ...]:
    """Returns the words of a command without quotes, expansions or assignments; empty for any other.

    Most commands of agents are so plain, and skipping their tree saves time.
    """
    text = text_of(command)
    return tuple(map(Word, text.split())) if PLAIN_COMMAND.fullmatch(text) else ()


def words_of(node: Node, scope: Scope) -> tuple[Word, ...]:
    """Returns the words of `node`, for all possible values of its variables."""
    return tuple(dict.fromkeys(word for words in alternatives_of(node, scope) for word in words))


def alternatives_of(node: Node, scope: Scope) -> tuple[tuple[Word, ...], ...]:
    """Returns the words of `node`, separately for each possible value of its variables."""
    if PLAIN_WORD.fullmatch(text := text_of(node)):
        return ((Word(text),),)
    alternatives = _pieces(node, scope)
    is_split = any(piece.is_expansion and not piece.is_quoted for pieces in alternatives for piece in pieces)
    separators = scope.separators() if is_split else BLANKS
    return tuple(tuple(_fields(pieces, separators)) for pieces in alternatives)


def text_word(node: Node, scope: Scope) -> Word:
    """Returns `node` as one unsplit word, such as a here-string or the value of an assignment."""
    return text_words(node, scope)[0]


def text_words(node: Node, scope: Scope) -> tuple[Word, ...]:
    """Returns `node` as one unsplit word, for each possible value of its variables."""
    return tuple(_joined(pieces) for pieces in _pieces(node, scope))


def _joined(pieces: Pieces) -> Word:
    if sum(len(piece.text) for piece in pieces) > MAX_VALUE:
        raise TooMuchError
    text = "".join(" " if piece.is_break else piece.text for piece in pieces)
    return Word(text, all(piece.is_resolved for piece in pieces))


def _pieces(node: Node, scope: Scope, *, is_quoted: bool = False) -> tuple[Pieces, ...]:
    match node.type:
        case "raw_string":
            text = text_of(node)[1:-1]
            is_unknown = UNKNOWN.text in text or (scope.is_assembled and "$" in text)
            return ((Piece(text, is_quoted=True, is_resolved=not is_unknown),),)
        case "ansi_c_string":
            return ((Piece(without_escapes(text_of(node)[2:-1]), is_quoted=True),),)
        case "string" | "heredoc_body":
            return _quoted(node, scope)
        case "translated_string" | "concatenation" | "command_name":
            return _product([_pieces(child, scope) for child in node.children if child.type != "$"], node, scope)
        case "simple_expansion" | "expansion":
            return _expansion(node, scope, is_quoted=is_quoted)
        case "command_substitution" | "process_substitution":
            word = scope.substitute(node)
            return ((Piece(word.text, is_quoted, word.is_resolved, is_expansion=True),),)
        case "arithmetic_expansion":
            _read_inside(node, scope)
            return ((_unknown(node),),)
        case _:
            _read_inside(node, scope)
            return (tuple(_unescaped(text_of(node))),)


def _read_inside(node: Node, scope: Scope) -> None:
    """Reads the substitutions inside a node whose own value does not matter."""
    waiting = list(node.children)
    while waiting:
        child = waiting.pop()
        if child.type in ("command_substitution", "process_substitution"):
            scope.substitute(child)
        else:
            waiting.extend(child.children)


def _unknown(node: Node) -> Piece:
    return Piece(text_of(node).lstrip(), is_quoted=True, is_resolved=False)


def _product(parts: list[tuple[Pieces, ...]], node: Node, scope: Scope) -> tuple[Pieces, ...]:
    """Returns every combination of `parts`; one unknown piece if there are too many."""
    combinations = list(islice(product(*parts), MAX_ALTERNATIVES + 1))
    if len(combinations) > MAX_ALTERNATIVES:
        return ((_unknown(node),),)
    found = tuple(tuple(piece for pieces in combination for piece in pieces) for combination in combinations)
    for pieces in found[1:]:
        scope.charge(_cost(pieces))
    return found


def _cost(pieces: Pieces) -> int:
    """Returns the cost of making words of the pieces; an unquoted piece may become several."""
    words = sum(1 if piece.is_quoted else 1 + len(piece.text.split()) for piece in pieces)
    return PIECE_COST * words + sum(len(piece.text) for piece in pieces)


def _quoted(node: Node, scope: Scope) -> tuple[Pieces, ...]:
    """Returns the parts of a double-quoted string. Text between the children of the tree is literal."""
    source = node.text or b""
    is_string = node.type == "string"
    parts: list[tuple[Pieces, ...]] = []
    position = 1 if is_string else 0
    for child in node.children:
        if child.type not in ("simple_expansion", "expansion", "command_substitution", "arithmetic_expansion"):
            continue
        start = child.start_byte - node.start_byte
        start += len(child.text or b"") - len((child.text or b"").lstrip())
        parts.append(_literal(source[position:start]))
        parts.append(_pieces(child, scope, is_quoted=True))
        position = child.end_byte - node.start_byte
    end = len(source) - 1 if is_string and source.endswith(b'"') else len(source)
    parts.append(_literal(source[position:end]))
    return _product(parts, node, scope)


_ESCAPED = re.compile(r'\\([$`"\\])')


def _literal(source: bytes) -> tuple[Pieces, ...]:
    return ((Piece(_ESCAPED.sub(r"\1", decoded(source)), is_quoted=True),),)


def _unescaped(text: str) -> Iterator[Piece]:
    """Yields the pieces of an unquoted literal; a backslash quotes the next character."""
    for literal, escaped in re.findall(r"([^\\]+)|\\(.?)", text, re.DOTALL):
        yield Piece(literal) if literal else Piece(escaped, is_quoted=True)


def _expansion(node: Node, scope: Scope, *, is_quoted: bool) -> tuple[Pieces, ...]:
    """Returns the pieces of `$X` and `${X...}`. A default is one more value, unless the value is known."""
    children = [child for child in node.children if child.type not in ("$", "${", "}")]
    name = NAME.search(text_of(children[0])) if children else None
    operator = children[1].type if len(children) > 1 else ""
    if name is not None and operator in REMOVALS and (rest := _without_affix(node, name[0], operator, scope)):
        return rest
    if name is None or operator not in ("", ":-", "-", ":=", "="):
        _read_inside(node, scope)
        return ((_unknown(node),),)
    is_list = name[0] == "@" or text_of(children[0]).endswith(("[@]", "[*]"))
    known = tuple(_value_pieces(value, is_list, is_quoted) for value in scope.values(name[0]))
    if known:
        scope.charge(sum(map(_cost, known)))
        return known
    if operator and len(children) > 2:
        return (
            (_unknown(node),),
            *_product([_pieces(child, scope, is_quoted=is_quoted) for child in children[2:]], node, scope),
        )
    return ((_unknown(node),),)


REMOVALS = frozenset({"#", "##", "%", "%%"})
MAX_CUT = 512
"""Length of the longest value from which a pattern is removed."""


def _without_affix(node: Node, name: str, operator: str, scope: Scope) -> tuple[Pieces, ...]:
    """Returns the values of `${X#pattern}` and the like; none if a value or the pattern is unknown."""
    pattern = text_of(node).partition(operator)[2].removesuffix("}")
    values = scope.values(name)
    texts = [value[0].text for value in values if len(value) == 1 and value[0].is_resolved]
    is_plain = re.fullmatch(r"[\w./*?~:@%+ -]*", pattern) is not None and pattern.count("*") <= 2
    if not is_plain or len(texts) != len(values) or any(len(text) > MAX_CUT for text in texts):
        return ()
    glob = re.compile(fnmatch.translate(pattern))
    scope.charge(PIECE_COST * sum(map(len, texts)))
    return tuple((Piece(_cut(text, operator, glob), is_quoted=True, is_expansion=True),) for text in texts)


def _cut(text: str, operator: str, glob: re.Pattern[str]) -> str:
    """Returns `text` without the shortest (`#`, `%`) or longest (`##`, `%%`) beginning or end that matches."""
    places = range(len(text) + 1)
    if operator[0] == "#":
        cuts = places if operator == "#" else reversed(places)
        return next((text[place:] for place in cuts if glob.match(text[:place])), text)
    cuts = reversed(places) if operator == "%" else places
    return next((text[:place] for place in cuts if glob.match(text[place:])), text)


def _value_pieces(value: Value, is_list: bool, is_quoted: bool) -> Pieces:
    pieces: list[Piece] = []
    for word in value if is_list else value[:1]:
        pieces += [BREAK, Piece(word.text, is_quoted, word.is_resolved, is_expansion=True)]
    return tuple(pieces[1:])


def _fields(pieces: Pieces, separators: str) -> Iterator[Word]:
    """Yields the words made of `pieces`: braces first, then splitting at spaces."""
    start = 0
    for end in [index for index, piece in enumerate(pieces) if piece.is_break] + [len(pieces)]:
        for expanded in _without_braces(pieces[start:end]):
            yield from _split(expanded, separators)
        start = end + 1


def _split(pieces: Iterable[Piece], separators: str) -> Iterator[Word]:
    parts: list[Piece] = []
    for piece in pieces:
        if not piece.is_expansion or piece.is_quoted or not piece.is_resolved or not set(separators) & set(piece.text):
            parts.append(piece)
            continue
        inner = [text for text in re.split(f"[{re.escape(separators)}]+", piece.text) if text]
        if parts and (piece.text[0] in separators or not inner):
            yield _joined(tuple(parts))
            parts = []
        for text in inner[:-1]:
            yield _joined((*parts, Piece(text)))
            parts = []
        parts += [Piece(text) for text in inner[-1:]]
        if inner and piece.text[-1] in separators:
            yield _joined(tuple(parts))
            parts = []
    if any(piece.text or piece.is_quoted for piece in parts):
        yield _joined(tuple(parts))


def _without_braces(pieces: Pieces) -> list[Pieces]:
    """Returns each word of a brace expansion. Meanwhile a private character replaces each quoted or expanded piece."""
    text = "".join(_stand_in(index, piece) for index, piece in enumerate(pieces))
    if "{" not in text or any(STAND_IN.search(piece.text) for piece in pieces):
        return [pieces]
    texts = _expanded(text) if len(text) <= MAX_BRACED else None
    if texts is None:
        return [(Piece("".join(piece.text for piece in pieces), is_resolved=False),)]
    return [tuple(_restored(item, pieces)) for item in texts]


def _expanded(text: str) -> list[str] | None:
    """Returns the words of all braces in `text`; None if the words or the braces are too many."""
    texts = [text]
    for _ in range(MAX_ALTERNATIVES):
        expanded = [_alternatives(BRACES, item) for item in texts]
        if not any(expanded):
            return texts
        texts = [new for item, found in zip(texts, expanded, strict=True) for new in found or [item]]
        if len(texts) > MAX_ALTERNATIVES:
            return None
    return None


def _alternatives(pattern: re.Pattern[str], text: str) -> list[str]:
    """Returns `text` with each member of its first brace expression in turn; empty if it has none."""
    for found in pattern.finditer(text):
        if members := _members(found[1]):
            return [text[: found.start()] + member + text[found.end() :] for member in members]
    return []


def _members(inside: str) -> list[str]:
    if numbers := NUMBERS.fullmatch(inside):
        low, high = sorted((int(numbers[1]), int(numbers[2])))
        return [str(number) for number in range(low, min(high, low + MAX_ALTERNATIVES) + 1)]
    return inside.split(",") if "," in inside else []


def _stand_in(index: int, piece: Piece) -> str:
    return chr(0xF0000 + index % 0xFFFF) if piece.is_quoted or piece.is_expansion else piece.text


def _restored(text: str, pieces: Pieces) -> Iterator[Piece]:
    end = 0
    for found in STAND_IN.finditer(text):
        if found.start() > end:
            yield Piece(text[end : found.start()])
        yield pieces[ord(found[0]) - 0xF0000]
        end = found.end()
    if end < len(text):
        yield Piece(text[end:])


NAMED = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,4})|c(.)|(.))", re.DOTALL
)


def without_escapes(text: str) -> str:
    """Replaces the escapes of `$'...'`, `echo -e` and `printf` in `text`."""
    return ESCAPE.sub(_decoded, text)


def _decoded(found: re.Match[str]) -> str:
    if hexadecimal := found[1] or found[2] or found[3]:
        code = int(hexadecimal, 16)
        return chr(code) if 0 < code <= 0x10FFFF else ""
    if octal := found[4]:
        return chr(int(octal, 8) % 256)
    if control := found[5]:
        return chr(ord(control) & 0x1F)
    return NAMED.get(found[6], found[6])
