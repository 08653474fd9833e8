"""Requests and answers as lines to read and compare, without anything that a terminal would obey."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from luthien_litellm_hooks.inspection.transactions import Answer, Block
from luthien_litellm_hooks.printable import escape, one_line

_INDENT = "  "
_TEXT_LINE = "│ "
"""Marks the lines of a text in an outline: they may look like members."""
_LONGEST_SCALAR = 40
_CONVERSATION = ("messages", "input", "contents", "prompt")
"""What holds the conversation, in the wire formats: it is shown last, so that its end is what is seen."""


def request_lines(request: Mapping[str, Any]) -> list[str]:
    """A request's body, field by field."""
    conversation = {name: request[name] for name in _CONVERSATION if name in request}
    rest = {name: value for name, value in request.items() if name not in conversation}
    return outline(rest | conversation) if request else []


def answer_lines(answer: Answer) -> list[str]:
    """An answer, block by block. Only what heads a block stands at the margin."""
    return [line for block in answer.content for line in _block_lines(block)]


def ending_lines(answer: Answer) -> list[str]:
    """How an answer ended."""
    lines = [] if answer.finish_reason is None else [f"finish reason: {one_line(answer.finish_reason)}"]
    return [*lines, "(longer than what is recorded)"] if answer.is_truncated else lines


def block_title(block: Block) -> str:
    """A block in a few words, such as `tool call bash (call_1)`."""
    words = [one_line(block.type.replace("_", " "))]
    if block.name is not None:
        words.append(one_line(block.name))
    if block.id is not None:
        words.append(f"({one_line(block.id)})")
    if block.choice:
        words.append(f"of choice {block.choice}")
    return " ".join(words)


def outline(value: object) -> list[str]:
    """A JSON value without its punctuation: texts as they are, members indented below their names."""
    try:
        return _lines(value)
    except RecursionError:
        return [escape(json.dumps(value))]


def _block_lines(block: Block) -> list[str]:
    body = _argument_lines(block.arguments) if block.type == "tool_call" else _text_lines(block.text)
    return [block_title(block), *_indented(body)]


def _argument_lines(arguments: str) -> list[str]:
    """Arguments that are JSON without doubt as an outline, others as they are."""
    try:
        return outline(json.loads(arguments, object_pairs_hook=_object_without_doubt))
    except (ValueError, RecursionError):
        return _text_lines(arguments)


def _object_without_doubt(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is there twice, and who reads it may take either")
    return members


def _lines(value: object) -> list[str]:
    if isinstance(value, dict) and value:
        members = cast(dict[str, object], value).items()
        return [line for name, member in members for line in _member_lines(f"{one_line(name)}:", member)]
    if isinstance(value, list) and value:
        return [line for item in cast(list[object], value) for line in _item_lines(item)]
    if not isinstance(value, str):
        return [json.dumps(value)]
    return [_TEXT_LINE + line for line in _text_lines(value)] if "\n" in value else _text_lines(value)


def _member_lines(name: str, member: object) -> list[str]:
    lines = _lines(member)
    is_short = len(lines) == 1 and not (isinstance(member, dict | list) and member)
    return [f"{name} {lines[0]}"] if is_short else [name, *_indented(lines)]


def _item_lines(item: object) -> list[str]:
    first, *rest = _lines(item)
    return [f"- {first}", *_indented(rest)]


def _text_lines(text: str) -> list[str]:
    """A text's lines; in quotes if it would look like another kind of value, or like nothing."""
    if _is_ambiguous(text):
        return [escape(json.dumps(text, ensure_ascii=False))]
    return escape(text).split("\n")


def _is_ambiguous(text: str) -> bool:
    if "\n" in text or len(text) > _LONGEST_SCALAR:
        return False
    if not text or text != text.strip() or text in ("{}", "[]"):
        return True
    try:
        return not isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _indented(lines: Sequence[str]) -> list[str]:
    return [_INDENT + line for line in lines]
