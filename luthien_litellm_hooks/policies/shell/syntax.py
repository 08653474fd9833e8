"""Syntax tree of a shell script, within bounds of size and work."""

import re
from dataclasses import dataclass

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

BASH = Language(tree_sitter_bash.language())

MAX_BYTES = 131_072
"""Size of the longest script to read."""

MAX_FREE_BYTES = 2_048
"""Size of the longest script to parse without a limit of work: it cannot take long."""

MAX_WORK = 6_000
"""Limit of the parser's work: its reports of progress, one in a hundred steps, and its reads of a piece of the script.

It depends on the script alone, not on the machine: linear for usual scripts, quadratic for some others. A unit takes
some 30 µs, and ten times as long where the parser recovers from errors. A dense script of `MAX_BYTES` takes 5,000.
"""

WORK_OF_KB = 64
FREE_WORK = 64
"""Further limit, by the size of the script: twice the work of dense scripts, and some more."""

MAX_PIPES = 1000
"""Limit because one long pipeline costs the parser the square of its length, in memory and in time."""

MAX_NESTING = 64
"""Limit of brackets open at once, anywhere in the script."""

CHUNK_BYTES = 2_048

ESCAPE = re.compile(r"\\(\\|\n)")

BRACKET = re.compile(rb"[(){}]")

_CODES = (code for code in range(0x80, 0x100) if code not in (0x85, 0xA0))  # without the two that are spaces
SAFE_LETTERS = dict(zip((*range(0x80, 0xC0), *range(0xC2, 0xF5)), _CODES, strict=False))
"""Code points for the bytes of UTF-8 beyond ASCII. The grammar's scanner calls `isdigit` and the like, for which a code
point above 255 reads outside of a table, and may crash the process."""

BYTES = {code: byte for byte, code in SAFE_LETTERS.items()}

VARIABLE_INSIDE_WORD = re.compile(r"\$(?<=[^\s\"'$\\(`{]\$)(\w+)")


def syntax_tree(script: str) -> Node | None:
    """Returns the root of the tree of `script`; None if it is too long or too much work to parse."""
    text = _prepared(script).encode("utf-8", "replace")
    source = _safe(text)
    if len(text) > MAX_BYTES or source.count(b"|") > MAX_PIPES or _nesting(source) > MAX_NESTING:
        return None
    root = parsed(source)
    if root is not None and root.has_error and not is_whole(root):
        repaired = _safe(_repaired(script).encode("utf-8", "replace"))
        other = parsed(repaired) if repaired != source and len(repaired) <= MAX_BYTES else None
        if other is not None and is_whole(other):
            return other
    return root


def _safe(text: bytes) -> bytes:
    """Returns the source without characters that crash the grammar's scanner."""
    return text if text.isascii() else text.decode("latin-1").translate(SAFE_LETTERS).encode()


def parsed(source: bytes, language: Language = BASH, most: int = MAX_WORK) -> Node | None:
    """Returns the root of the tree of `source`; None if it is more work than `most`, or with errors than a quarter."""
    if len(source) <= MAX_FREE_BYTES:
        return Parser(language).parse(source).root_node
    limit = min(most, FREE_WORK + len(source) * WORK_OF_KB // 1024)
    work = 0

    def read(offset: int, _point: object) -> bytes:
        nonlocal work
        work += 1
        return source[offset : offset + CHUNK_BYTES] if work <= limit else b""

    def is_too_much(_offset: int, _has_error: bool) -> bool:
        nonlocal work
        work += 1
        return work > limit

    try:
        root = Parser(language).parse(read, progress_callback=is_too_much).root_node
    except ValueError:  # the parser's error if the callback stops it
        return None
    if work > limit or (root.has_error and work > most // 4):
        return None
    return Parser(language).parse(source).root_node  # again, for a tree with its source


def _nesting(source: bytes) -> int:
    deepest = depth = 0
    for bracket in BRACKET.findall(source):
        depth = depth + 1 if bracket in b"({" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def text_of(node: Node) -> str:
    return decoded(node.text or b"")


def decoded(source: bytes) -> str:
    """Returns the script's own text for a part of the tree's source."""
    if source.isascii():
        return source.decode()
    return source.decode("utf-8", "replace").translate(BYTES).encode("latin-1", "replace").decode("utf-8", "replace")


def is_whole(root: Node) -> bool:
    """Tells if the grammar understood everything below `root`."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_missing or (node.type == "ERROR" and not is_split_here_string(node)):
            return False
        waiting += [child for child in node.children if child.has_error]
    return True


def is_split_here_string(node: Node) -> bool:
    """Tells if `node` is half of a `<<<`. After another redirection the grammar reads an error, `<<`, and then `<`."""
    return node.type == "ERROR" and node.text == b"<<"


def _prepared(script: str) -> str:
    """Returns `script` in a form that the grammar reads correctly.

    The grammar splits a word at a continued line, and loses the second variable of `$X/$Y/z`.
    """
    lines = ESCAPE.sub(
        lambda found: found[0] if found[1] == "\\" else "", script.replace("\0", "").replace("\r\n", "\n")
    )
    if (len(lines) - len(lines.rstrip("\\"))) % 2:  # a continued line at the end of the script
        lines = lines[:-1]
    return VARIABLE_INSIDE_WORD.sub(r"${\1}", lines)


BLOCK_END = re.compile(r"(\b(?:done|fi|esac)|[)}])([ \t\n]*)(?=\}|\b(?:done|fi|else|elif|esac)\b)")
LOOP_WITHOUT_LIST = re.compile(r"\bfor[ \t]+(\w+)[ \t]*(?:;|\n)?[ \t\n]*(?=do\b)")
HEREDOC = re.compile(r"<<(-?)[ \t]*((?:[\w.+-]|\\\w|\"[^\"\n]*\"|'[^'\n]*')+)([ \t]*;(?=[ \t]*\n))?")
MAX_HEREDOCS = 64


def _repaired(script: str) -> str:
    """Returns `script` with valid bash that the grammar does not know in a form that it does.

    That is a block's end right after another one, a loop without a list, `;&`, and a heredoc whose delimiter is quoted
    in part or stands inside a word of its text.
    """
    prepared = _prepared(script)
    prepared = LOOP_WITHOUT_LIST.sub(r'for \1 in "$@"; ', prepared)
    prepared = re.sub(r";;?&(?=\s)", ";;", BLOCK_END.sub(r"\1;\2", prepared))
    place = 0
    for number in range(MAX_HEREDOCS):
        found = HEREDOC.search(prepared, place)
        if found is None:
            break
        place = found.end()
        if prepared[found.start() - 1 : found.start()] == "<" or prepared[found.end(1) : found.end(1) + 1] == "<":
            continue
        plain = re.sub(r"[\"'\\]", "", found[2])
        end = re.compile(rf"^\t*{re.escape(plain)}$", re.MULTILINE).search(prepared, place)
        if end is None:
            continue
        name = f"LUTHIEN_HEREDOC_{number}"
        start = f"<<{found[1]}" + (f"'{name}'" if plain != found[2] else name)
        prepared = prepared[: found.start()] + start + prepared[place : end.start()] + name + prepared[end.end() :]
        place = found.start() + len(start)
    return prepared


@dataclass(frozen=True, slots=True)
class Redirections:
    """Redirections of a statement, and the nodes hidden in them by the grammar."""

    nodes: list[Node]
    words: list[Node]
    """Arguments after a redirection."""
    later_stages: list[Node]
    """Rest of a pipeline after `<<EOF`."""
    rest: list[Node]
    """Statements after `<<EOF &&`."""

    @classmethod
    def of(cls, statement: Node) -> "Redirections":
        found = cls([], [], [], [])
        for child in statement.children:
            if child.type.endswith("_redirect"):
                found._add(child)
        return found

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        if node.type == "file_redirect":
            self.words.extend(node.children_by_field_name("destination")[1:])
        if node.type != "heredoc_redirect":
            return
        is_rest = False
        for child in node.named_children:
            if child.type.endswith("_redirect"):
                self._add(child)
            elif child.type not in ("heredoc_start", "heredoc_body", "heredoc_end", "file_descriptor"):
                is_rest = is_rest or _follows_operator(child)
                self._place(child, is_rest)

    def _place(self, node: Node, is_rest: bool) -> None:
        if is_rest:
            self.rest.append(node)
        elif node.type == "pipeline":
            self.later_stages.extend(node.named_children)
        else:
            self.words.append(node)


def parts_of_list(node: Node) -> list[Node]:
    """Returns the parts of `a && b || c`, which the tree nests to the left."""
    parts: list[Node] = []
    while node.type == "list" and node.named_children:
        node, *others = node.named_children
        parts += reversed(others)
    return [node, *reversed(parts)]


def is_here_string(node: Node) -> bool:
    """Tells if `node` is the second half of a `<<<` split by the grammar."""
    before = node.prev_sibling
    return before is not None and is_split_here_string(before)


def _follows_operator(node: Node) -> bool:
    before = node.prev_sibling
    return before is not None and before.type in ("&&", "||", ";", "&")
