"""The repository's pages: their blocks of code, the commands that they name, their links and headings."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.proxy import ROOT

PAGES = tuple(sorted([ROOT / "llms.txt", *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]))
_PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code. One without a language, fenced or not, has an empty one."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def _tokens(page: Path) -> Sequence[Token]:
    return MarkdownIt().parse(page.read_text(encoding="utf-8"))


def _inline(page: Path) -> Iterator[Token]:
    for token in _tokens(page):
        yield from token.children or ()


def blocks(page: Path) -> Iterator[Block]:
    for token in _tokens(page):
        if token.type in ("fence", "code_block"):
            [line, _] = token.map or [0, 0]
            yield Block(page, line + 1, token.info, token.content)


def code_in_lines(page: Path) -> Iterator[str]:
    """What stands in back quotes within lines of text."""
    return (token.content for token in _inline(page) if token.type == "code_inline")


def targets(page: Path) -> Iterator[str]:
    """Where links lead, and which pictures are shown."""
    for token in _inline(page):
        if target := token.attrGet("href") or token.attrGet("src"):
            yield str(target)


def anchors(page: Path) -> set[str]:
    """The names by which links find the headings, as GitHub makes them."""
    tokens = _tokens(page)
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command behind a prompt, without comments and redirections; what is printed is left out."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith(_PROMPT):
            yield from _simple_commands(line.removeprefix(_PROMPT))


def _simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words, is_file = list[str](), False
    for word in lexer:
        if set(word) <= set("<>"):
            is_file = True
        elif set(word) <= set("();&|"):
            yield words
            words = []
        elif is_file:
            is_file = False
        else:
            words.append(word)
    yield words
