"""The syntax tree of a shell script, within bounds of size and time."""

import re
import time

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

BASH = Language(tree_sitter_bash.language())

MAX_BYTES = 131_072
"""A longer script is not read."""

MAX_UNTIMED_BYTES = 2_048
"""So short a script is read without a look at the time: it can take no long one."""

MAX_SECONDS = 0.5
"""Of processor time. The parser is linear on what people write, and quadratic on some of what they do not."""

MAX_PIPES = 1000
"""One long pipeline costs the parser the square of its length, in memory as in time."""

MAX_NESTING = 64
"""How many brackets may be open at once, wherever they stand."""

CHUNK_BYTES = 16_384

ESCAPE = re.compile(r"\\(\\|\n)")

BRACKET = re.compile(rb"[(){}]")

VARIABLE_INSIDE_WORD = re.compile(r"(?<=[^\s\"'$\\(`{])\$(\w+)")


def syntax_tree(script: str) -> Node | None:
    """The root of the tree of `script`, or None if it is too long or takes too long to read."""
    source = _for_the_grammar(script).encode("utf-8", "replace")
    if len(source) > MAX_BYTES or source.count(b"|") > MAX_PIPES or _nesting(source) > MAX_NESTING:
        return None
    if len(source) <= MAX_UNTIMED_BYTES:
        return Parser(BASH).parse(source).root_node
    deadline = time.thread_time() + MAX_SECONDS
    try:
        Parser(BASH).parse(
            lambda offset, _point: source[offset : offset + CHUNK_BYTES],
            progress_callback=lambda _offset, _has_error: time.thread_time() > deadline,
        )
    except ValueError:  # the parser's way to say that the callback stopped it
        return None
    return Parser(BASH).parse(source).root_node  # once more, for a tree that keeps its source


def _nesting(source: bytes) -> int:
    deepest = depth = 0
    for bracket in BRACKET.findall(source):
        depth = depth + 1 if bracket in b"({" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def text_of(node: Node) -> str:
    """The source of `node`."""
    return (node.text or b"").decode("utf-8", "replace")


def is_whole(root: Node) -> bool:
    """Whether the grammar understood everything below `root`."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_missing or (node.type == "ERROR" and not is_split_here_string(node)):
            return False
        waiting += [child for child in node.children if child.has_error]
    return True


def is_split_here_string(node: Node) -> bool:
    """The grammar reads `<<<` after another redirection as an error, `<<`, and `<`."""
    return node.type == "ERROR" and node.text == b"<<"


def _for_the_grammar(script: str) -> str:
    """`script` without what the grammar gets wrong in silence.

    It takes a continued line inside a word for two words, and loses the second variable of `$X/$Y/z`.
    """
    lines = ESCAPE.sub(
        lambda found: found[0] if found[1] == "\\" else "", script.replace("\0", "").replace("\r\n", "\n")
    )
    return VARIABLE_INSIDE_WORD.sub(r"${\1}", lines)
