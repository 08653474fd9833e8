"""The tools that a request offers; read from its body, in whichever wire format that is."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

Json = Mapping[str, Any]

_DECLARATIONS = ("function", "custom", "functionDeclarations", "function_declarations", "tools")
"""Fields of a tool that hold what declares one, or several."""


def tool_names(body: Json) -> tuple[str, ...]:
    """The names of the tools that the request offers; of a tool without a name, its type, or its key."""
    offered = [*_maps(body.get("tools")), *_maps(body.get("functions")), *_loaded(body.get("input"))]
    names = dict.fromkeys(name for tool in offered for name in _names(tool))
    return (*names, "web_search") if body.get("web_search_options") else tuple(names)


def has_untold_tools(body: Json) -> bool:
    """Tells whether the model may get tools whose names the body does not say: those of an MCP server, of a
    stored prompt or cached content, or in a shape that is not known."""
    if any(body.get(key) for key in ("mcp_servers", "prompt_id", "cachedContent", "cached_content")):
        return True
    if isinstance(body.get("prompt"), Mapping):  # a prompt that the provider keeps, on responses
        return True
    return any(_is_untold(body[key]) for key in ("tools", "functions") if body.get(key))


def _is_untold(tools: object) -> bool:
    if not isinstance(tools, list):
        return True
    items = cast(list[object], tools)
    return any(not isinstance(tool, Mapping) or _is_mcp(cast(Json, tool)) for tool in items)


def _is_mcp(tool: Json) -> bool:
    return str(tool.get("type") or "").startswith("mcp") or _has_mcp_inside(tool.get("tools"))


def _has_mcp_inside(tools: object) -> bool:
    return any(_is_mcp(tool) for tool in _maps(tools))


def _loaded(items: object) -> Iterator[Json]:
    """The tools that a search of the client's own has brought into the conversation, on responses."""
    for item in _maps(items):
        if item.get("type") == "tool_search_output":
            yield from _maps(item.get("tools"))


def _names(tool: Json) -> Iterator[str]:
    named = list(_declared(tool))
    kind = tool.get("type")
    if isinstance(tool.get("name"), str) or (named and isinstance(kind, str)):
        yield from named
    elif isinstance(kind, str):
        yield kind
    else:  # Gemini's, where a key names each tool of the provider's
        yield from named
        yield from (key for key, value in tool.items() if isinstance(value, Mapping) and key not in _DECLARATIONS)


def _declared(tool: Json) -> Iterator[str]:
    if isinstance(tool.get("name"), str):
        yield tool["name"]
    for field in _DECLARATIONS:
        inner: object = tool.get(field)
        for declared in _maps(inner) or _maps([inner]):
            yield from _names(declared) if field == "tools" else _declared(declared)


def _maps(value: object) -> list[Json]:
    """The JSON objects in a list; none if it is something else."""
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(Json, item) for item in items if isinstance(item, Mapping)]
