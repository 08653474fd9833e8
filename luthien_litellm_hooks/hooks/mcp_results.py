"""The texts of what an MCP server gives back, and the same with other texts in their places."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mcp.types import CallToolResult, GetPromptResult, PromptMessage, ReadResourceResult, TextContent
from pydantic import BaseModel

Texts = Sequence[str | None]
McpResult = CallToolResult | GetPromptResult | ReadResourceResult

_TEXT_FIELDS = ("text", "title", "name", "description")
"""Of a content, or of a resource in it, what is read; addresses, and names of types, are not."""


def texts_of(result: McpResult) -> list[str]:
    """All that the policy is to judge: the texts of the contents, then what stands beside them."""
    beside = _beside(result)
    return [*(place.text for place in _places(_contents(result))), *([] if beside is None else [beside])]


def with_texts(result: McpResult, texts: Texts) -> McpResult:
    """A copy with other texts in the places of those of `texts_of`, and further ones at the end.

    A content whose text is None is left out, and so is what nobody has judged: the result's `_meta`.
    """
    came = _contents(result)
    contents, rest = _replaced_all(came, texts)
    update: dict[str, Any] = {"meta": None}
    if (beside := _beside(result)) is not None:
        text, *rest = rest or [None]
        update |= {} if text == beside else _replaced_beside(result, text)
    said = [TextContent(type="text", text=text) for text in rest if text]
    if isinstance(result, CallToolResult):
        update["content"] = [*(content for content in contents if content is not None), *said]
    elif isinstance(result, GetPromptResult):
        kept = zip(result.messages, contents, strict=True)
        messages = [message.model_copy(update={"content": content}) for message, content in kept if content is not None]
        update["messages"] = [*messages, *(PromptMessage(role="user", content=content) for content in said)]
    else:
        update["contents"] = [content for content in contents if content is not None]
    return result.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class _Place:
    """A text of the content number `index`, in its field, or in that of its `resource`."""

    index: int
    path: tuple[str, ...]
    text: str


def _contents(result: McpResult) -> Sequence[BaseModel]:
    if isinstance(result, CallToolResult):
        return result.content
    if isinstance(result, GetPromptResult):
        return [message.content for message in result.messages]
    return result.contents


def _places(contents: Sequence[BaseModel]) -> list[_Place]:
    return [place for index, content in enumerate(contents) for place in _places_in(content, index)]


def _places_in(content: BaseModel, index: int) -> Iterator[_Place]:
    for path in [(name,) for name in _TEXT_FIELDS] + [("resource", name) for name in _TEXT_FIELDS]:
        found: object = content
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, str) and found:
            yield _Place(index, path, found)


def _replaced_all(came: Sequence[BaseModel], texts: Texts) -> tuple[list[BaseModel | None], list[str | None]]:
    """The contents, None for those that are left out, and the texts that are none of theirs."""
    places, contents = _places(came), cast(list[BaseModel | None], list(came))
    for place, text in zip(places, texts, strict=False):
        content = contents[place.index]
        if content is not None and text != place.text:
            contents[place.index] = None if text is None else _replaced(content, place.path, text)
    return contents, list(texts[len(places) :])


def _replaced(content: BaseModel, path: tuple[str, ...], text: str) -> BaseModel:
    first, *rest = path
    inner: object = _replaced(getattr(content, first), tuple(rest), text) if rest else text
    return content.model_copy(update={first: inner, "meta": None})


def _beside(result: McpResult) -> str | None:
    """The structured result as JSON, or the description of a prompt."""
    if isinstance(result, GetPromptResult):
        return result.description or None
    structured: object = result.structured_content if isinstance(result, CallToolResult) else None
    return None if structured is None else json.dumps(structured, ensure_ascii=False, default=str)


def _replaced_beside(result: McpResult, text: str | None) -> dict[str, Any]:
    """A structured result that is no JSON any more is left out, and the result is an error, as LiteLLM has it:
    a tool that has announced one must give one, or fail."""
    if isinstance(result, GetPromptResult):
        return {"description": text}
    try:
        value: object = json.loads(text or "")
    except ValueError:
        value = None
    is_same_kind = value is not None and isinstance(value, type(getattr(result, "structured_content", None)))
    return {"structured_content": value} if is_same_kind else {"structured_content": None, "is_error": True}
