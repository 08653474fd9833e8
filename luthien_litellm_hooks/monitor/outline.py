"""Requests and responses as lines to read and compare, with control characters escaped."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby, zip_longest
from typing import Any, cast

from luthien_litellm_hooks.monitor.transactions import Block, Response
from luthien_litellm_hooks.telemetry.log_lines import escape, one_line
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.request_shape import tool_names

_INDENT = "  "
_TEXT_LINE = "│ "
"""Mark of a text's lines in an outline, since they may look like members."""
_LONGEST_SCALAR = 40


def request_lines(request: Mapping[str, Any]) -> list[str]:
    """Returns a request's body, field by field, with the conversation last: its end is what people look for."""
    conversation, rest = _parted(request)
    return outline(rest | conversation) if request else []


def brief_lines(request: Mapping[str, Any], *, names_tools: bool) -> list[str]:
    """Returns a request's body with the conversation first, its last turns before the others. With `names_tools` the
    tools are names alone."""
    conversation, rest = _parted(request)
    turns = {
        f"{name} (the last first)": list(reversed(cast(list[object], turns))) if isinstance(turns, list) else turns
        for name, turns in conversation.items()
    }
    if names_tools and any(name in rest for name in FORMATS.request.tools):
        names = ", ".join(tool_names(rest, FORMATS.request))
        rest = {name: value for name, value in rest.items() if name not in FORMATS.request.tools} | {"tools": names}
    return outline(turns | rest) if request else []


def _parted(request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    conversation = {name: request[name] for name in FORMATS.request.conversation if name in request}
    return conversation, {name: value for name, value in request.items() if name not in conversation}


def response_lines(response: Response) -> list[str]:
    """Returns a response, block by block. Only the titles of blocks begin at the margin."""
    return [line for block in response.content for line in _block_lines(block)]


def ending_lines(response: Response) -> list[str]:
    """Returns the end of a response: its finish reason, and a mark if the recorded copy is truncated."""
    lines = [] if response.finish_reason is None else [f"finish reason: {one_line(response.finish_reason)}"]
    return [*lines, "(longer than the record)"] if response.is_truncated else lines


def block_title(block: Block) -> str:
    """Describes a block in a few words, such as `tool call bash (call_1)`."""
    words = [one_line(block.type.replace("_", " "))]
    if block.name is not None:
        words.append(one_line(block.name))
    if block.id is not None:
        words.append(f"({one_line(block.id)})")
    if block.choice:
        words.append(f"of choice {block.choice}")
    return " ".join(words)


def outline(value: object) -> list[str]:
    """Returns a JSON value without its punctuation: texts as they are, members indented below their names."""
    try:
        return _lines(value)
    except RecursionError:
        return [escape(json.dumps(value))]


def _block_lines(block: Block) -> list[str]:
    body = argument_lines(block.arguments) if block.type == "tool_call" else _text_lines(block.text)
    return [block_title(block), *_indented(body)]


def argument_lines(arguments: str) -> list[str]:
    """Returns arguments as an outline if they are unambiguous JSON, and unchanged otherwise."""
    try:
        return outline(json.loads(arguments, object_pairs_hook=_unambiguous_object))
    except (ValueError, RecursionError):
        return _text_lines(arguments)


def _unambiguous_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("duplicate name: a reader may use either value")
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
    """Returns a text's lines; in quotes if it would look like another type of value, or like nothing."""
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


_MOST_LINES = 2_000
"""Lines of a difference. Longer ones are compared line by line, since alignment would take too long."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A line before and after; None where a side has no such line."""

    before: str | None
    after: str | None

    @property
    def is_equal(self) -> bool:
        return self.before == self.after


@dataclass(frozen=True, slots=True)
class Gap:
    """A number of equal lines that are not shown."""

    lines: int


def compare(before: Sequence[str], after: Sequence[str]) -> list[Pair]:
    """Aligns all lines of both sequences, in order."""
    first, last = shared_ends(before, after)
    middle = _compare_middle(before[first : len(before) - last], after[first : len(after) - last])
    return [*_equal(before[:first]), *middle, *_equal(before[len(before) - last :])]


def fold(pairs: Iterable[Pair], context: int, *, keeps_ends: bool) -> Iterator[Pair | Gap]:
    """Replaces equal lines more than `context` lines away from a change by gaps. `keeps_ends` also keeps `context`
    lines at the beginning and the end."""
    runs = [(is_equal, list(run)) for is_equal, run in groupby(pairs, lambda pair: pair.is_equal)]
    for number, (is_equal, run) in enumerate(runs):
        head = context if number or keeps_ends else 0
        tail = context if number < len(runs) - 1 or keeps_ends else 0
        left_out = len(run) - head - tail
        if is_equal and left_out > 1:
            yield from run[:head]
            yield Gap(left_out)
            yield from run[len(run) - tail :]
        else:
            yield from run


def shared_ends(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """Returns how many items, or characters, two sequences share at their beginnings, and then at their ends."""
    first = _shared(before, after)
    return first, _shared(before[first:][::-1], after[first:][::-1])


def _shared(before: Sequence[str], after: Sequence[str]) -> int:
    differences = (number for number, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    return next(differences, min(len(before), len(after)))


def _equal(lines: Iterable[str]) -> list[Pair]:
    return [Pair(line, line) for line in lines]


def _compare_middle(before: Sequence[str], after: Sequence[str]) -> list[Pair]:
    if max(len(before), len(after)) > _MOST_LINES:
        return list(_side_by_side(before, after))
    pairs: list[Pair] = []
    for _, start, end, start_after, end_after in SequenceMatcher(None, before, after).get_opcodes():
        pairs += _side_by_side(before[start:end], after[start_after:end_after])
    return pairs


def _side_by_side(before: Sequence[str], after: Sequence[str]) -> Iterator[Pair]:
    for line_before, line_after in zip_longest(before, after):
        yield Pair(line_before, line_after)
