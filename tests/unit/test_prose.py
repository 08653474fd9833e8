"""The prose rule of CONTRIBUTING.md, as far as a test can hold it: it reads every docstring of the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import luthien_litellm_hooks
from luthien_litellm_hooks.policies.shell.python import syntax_tree

ROOT = Path(luthien_litellm_hooks.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
MAX_RELATIVE = 2.5
"""Relative pronouns in 100 words; h11 has 2.4, httpcore 1.4."""

WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
RELATIVE = re.compile(r"\b(?:which|that|what|who|whose|whom)\b", re.IGNORECASE)
OPENING = re.compile(r"(?:what|whether|who|whose|whom|where|which|that|of which)\b", re.IGNORECASE)
BANNED = re.compile(
    r"\b(?:lets? (?:it |them )?out|stands? (?:in|for|under|where|beside)|is to be|are to be|of which|what came|"
    r"(?:is|are) no\b(?! (?:longer|more))|nobody|tells of|in its (?:place|stead)|the last word)\b",
    re.IGNORECASE,
)


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module, its classes, functions and attributes."""
    for node in ast.walk(syntax_tree(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_docstring_begins_with_a_verb_or_a_noun(path: Path) -> None:
    assert [text for text in docstrings(path) if OPENING.match(text.lstrip())] == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_docstring_has_no_banned_phrase(path: Path) -> None:
    assert [found.group() for text in docstrings(path) for found in BANNED.finditer(text)] == []


def test_relative_clauses_are_few() -> None:
    texts = [text for path in MODULES for text in docstrings(path)]
    words = sum(len(WORD.findall(text)) for text in texts)
    relative = sum(len(RELATIVE.findall(text)) for text in texts)
    assert 100 * relative / words <= MAX_RELATIVE


@pytest.mark.parametrize("text", ["What is held.", "whether it is", "Where it begins", "Of which one is"])
def test_the_rule_sees_a_bad_opening(text: str) -> None:
    assert OPENING.match(text)


@pytest.mark.parametrize("text", ["Lets it out.", "is no block", "of which one", "stands for a block", "is to be held"])
def test_the_rule_sees_a_banned_phrase(text: str) -> None:
    assert BANNED.search(text)


@pytest.mark.parametrize("text", ["Returns the block.", "It is no longer held.", "Lets the loop run.", "A stand-in."])
def test_the_rule_lets_plain_prose_be(text: str) -> None:
    assert not OPENING.match(text)
    assert not BANNED.search(text)
