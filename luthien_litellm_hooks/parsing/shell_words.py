"""From the source of a word to what the program gets: quotes, variables, substitutions, braces, splitting."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Protocol

from tree_sitter import Node

from luthien_litellm_hooks.parsing.shell_escapes import without_escapes
from luthien_litellm_hooks.parsing.shell_model import Word
from luthien_litellm_hooks.parsing.shell_syntax import text_of

MAX_ALTERNATIVES = 32
"""How many values one word may have, by variables with several values or by braces."""

MAX_BRACED = 4096
"""Braces in a longer word are not expanded."""

MAX_VALUE = 131_072
"""No word is longer, so that variables cannot double one another without end."""

PIECE_COST = 20
"""How many characters the handling of a piece of a word is worth."""

Value = tuple[Word, ...]
"""A variable's value: one word, or the elements of an array."""


class TooMuchError(Exception):
    """The script comes to more, or longer, words than are read."""


class Scope(Protocol):
    """What a word may refer to."""

    def values(self, name: str) -> tuple[Value, ...]:
        """Every value that the variable may have; empty if unknown."""
        ...

    def substitute(self, node: Node) -> Word:
        """Read the commands of a substitution; what they print, as far as it is known."""
        ...

    def charge(self, characters: int) -> None:
        """Note that values come to so many characters more. Raises `TooMuchError`."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a word."""

    text: str
    is_quoted: bool = False
    is_resolved: bool = True
    is_expansion: bool = False
    is_break: bool = False
    """The border between two elements of `"$@"`."""


Pieces = tuple[Piece, ...]
BREAK = Piece("", is_break=True)
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(-?\d{1,6})\.\.(-?\d{1,6})")
NAME = re.compile(r"\w+|[@*]")
PLAIN_COMMAND = re.compile(r"[\w./:,@%+-]+(?:[ \t]+[\w./:,@%+=-]+)*+", re.ASCII)
PLAIN_WORD = re.compile(r"[\w./:,@%+=-]+", re.ASCII)
"""One that a shell leaves as it is, as most are."""
STAND_IN = re.compile("[\U000f0000-\U000fffff]")


def plain_words(command: Node) -> tuple[Word, ...]:
    """The words of a command that has nothing to unquote, to expand or to assign; empty if it has.

    Much of what agents run is like that, and needs no look at the parts of its tree.
    """
    text = text_of(command)
    return tuple(map(Word, text.split())) if PLAIN_COMMAND.fullmatch(text) else ()


def words_of(node: Node, scope: Scope) -> tuple[Word, ...]:
    """The words that `node` comes to; where a variable may have several values, those of each."""
    return tuple(dict.fromkeys(word for words in alternatives_of(node, scope) for word in words))


def alternatives_of(node: Node, scope: Scope) -> tuple[tuple[Word, ...], ...]:
    """The words that `node` comes to, for each value that its variables may have."""
    if PLAIN_WORD.fullmatch(text := text_of(node)):
        return ((Word(text),),)
    return tuple(tuple(_fields(pieces)) for pieces in _pieces(node, scope))


def text_word(node: Node, scope: Scope) -> Word:
    """`node` as one word, unsplit, such as a here-string or the value of an assignment."""
    return text_words(node, scope)[0]


def text_words(node: Node, scope: Scope) -> tuple[Word, ...]:
    """`node` as one unsplit word, for each value that its variables may have."""
    return tuple(_joined(pieces) for pieces in _pieces(node, scope))


def _joined(pieces: Pieces) -> Word:
    if sum(len(piece.text) for piece in pieces) > MAX_VALUE:
        raise TooMuchError
    text = "".join(" " if piece.is_break else piece.text for piece in pieces)
    return Word(text, all(piece.is_resolved for piece in pieces))


def _pieces(node: Node, scope: Scope, *, is_quoted: bool = False) -> tuple[Pieces, ...]:
    match node.type:
        case "raw_string":
            return ((Piece(text_of(node)[1:-1], is_quoted=True),),)
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
    """Read the substitutions that a node hides whose own value does not matter."""
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
    """Every combination of `parts`; one unknown piece if they are too many."""
    combinations = list(islice(product(*parts), MAX_ALTERNATIVES + 1))
    if len(combinations) > MAX_ALTERNATIVES:
        return ((_unknown(node),),)
    found = tuple(tuple(piece for pieces in combination for piece in pieces) for combination in combinations)
    for pieces in found[1:]:
        scope.charge(_cost(pieces))
    return found


def _cost(pieces: Pieces) -> int:
    """What it costs to make words of the pieces; unquoted, each may be several."""
    words = sum(1 if piece.is_quoted else 1 + len(piece.text.split()) for piece in pieces)
    return PIECE_COST * words + sum(len(piece.text) for piece in pieces)


def _quoted(node: Node, scope: Scope) -> tuple[Pieces, ...]:
    """The parts of a double-quoted string; what the tree leaves out between its children is literal."""
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


def _literal(source: bytes) -> tuple[Pieces, ...]:
    text = re.sub(r'\\([$`"\\])', r"\1", source.decode("utf-8", "replace"))
    return ((Piece(text, is_quoted=True),),)


def _unescaped(text: str) -> Iterator[Piece]:
    """The pieces of an unquoted literal: what follows a backslash is quoted."""
    for literal, escaped in re.findall(r"([^\\]+)|\\(.?)", text, re.DOTALL):
        yield Piece(literal) if literal else Piece(escaped, is_quoted=True)


def _expansion(node: Node, scope: Scope, *, is_quoted: bool) -> tuple[Pieces, ...]:
    """`$X` and `${X...}`; a default counts as one more value, save where the value is known."""
    children = [child for child in node.children if child.type not in ("$", "${", "}")]
    name = NAME.search(text_of(children[0])) if children else None
    operator = children[1].type if len(children) > 1 else ""
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


def _value_pieces(value: Value, is_list: bool, is_quoted: bool) -> Pieces:
    pieces: list[Piece] = []
    for word in value if is_list else value[:1]:
        pieces += [BREAK, Piece(word.text, is_quoted, word.is_resolved, is_expansion=True)]
    return tuple(pieces[1:])


def _fields(pieces: Pieces) -> Iterator[Word]:
    """The words that the shell makes of `pieces`: braces first, then splitting at spaces."""
    start = 0
    for end in [index for index, piece in enumerate(pieces) if piece.is_break] + [len(pieces)]:
        for expanded in _without_braces(pieces[start:end]):
            yield from _split(expanded)
        start = end + 1


def _split(pieces: Iterable[Piece]) -> Iterator[Word]:
    parts: list[Piece] = []
    for piece in pieces:
        if not piece.is_expansion or piece.is_quoted or not re.search(r"\s", piece.text) or not piece.is_resolved:
            parts.append(piece)
            continue
        inner = piece.text.split()
        if parts and (piece.text[0].isspace() or not inner):
            yield _joined(tuple(parts))
            parts = []
        for text in inner[:-1]:
            yield _joined((*parts, Piece(text)))
            parts = []
        parts += [Piece(text) for text in inner[-1:]]
        if inner and piece.text[-1].isspace():
            yield _joined(tuple(parts))
            parts = []
    if any(piece.text or piece.is_quoted for piece in parts):
        yield _joined(tuple(parts))


def _without_braces(pieces: Pieces) -> list[Pieces]:
    """Each word of a brace expansion; anything but unquoted text stands as a private character meanwhile."""
    text = "".join(_stand_in(index, piece) for index, piece in enumerate(pieces))
    if "{" not in text or any(STAND_IN.search(piece.text) for piece in pieces):
        return [pieces]
    texts = _expanded(text) if len(text) <= MAX_BRACED else None
    if texts is None:
        return [(Piece("".join(piece.text for piece in pieces), is_resolved=False),)]
    return [tuple(_restored(item, pieces)) for item in texts]


def _expanded(text: str) -> list[str] | None:
    """The words that the braces of `text` come to; None if they, or the braces, are too many."""
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
    """`text` with its first brace expression replaced by each of its members; empty if it has none."""
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
