"""Request bodies of any wire: their texts, conversation, tools and token limit.

Each wire's `RequestShape` names its fields. A client may send a field of another wire, and LiteLLM may obey it, so
the functions here read every body by the union of all shapes (`FORMATS.request`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.events import ToolCall, ToolForm

Json = Mapping[str, Any]
Author = Literal["user", "tool", "system", "model"]
TextChange = Callable[[str, str], str]
"""Returns the new text for a role and a text."""
ArgumentChange = Callable[[object], object]
"""Returns new arguments of a tool call, for a string or a JSON value."""


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning of the model in the conversation."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """Result in the conversation. The `id` is its call's, the `name` its tool's; both are "" if missing."""

    id: str
    name: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """Text of a document in a message."""

    text: str


Piece = str | Attachment | Thought | ToolCall | ToolResult
"""Piece of the conversation; a string is a text of the message itself."""
PartReader = Callable[[Json], Iterable[ToolCall | ToolResult | Thought]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape:
    """Names of a wire's request fields; all are optional.

    A text is a string, a list of texts, or an object (message or part) with texts in its `text_fields`. Roles are
    "system", "user", "assistant" and "tool"; an object's own `role` wins, save below "system".
    """

    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fields of the body that hold texts, and the role of each."""
    conversation: tuple[str, ...] = ()
    """Those of `texts` that hold the conversation. The first one found in a body counts."""
    instructions: tuple[str, ...] = ()
    """Those of `texts` that hold the system prompt as a text, or as parts."""
    instruction_messages: tuple[str, ...] = ()
    """Those of `texts` that hold it as a message."""
    variables: tuple[str, ...] = ()
    """Fields of the body that hold the user's texts for a stored prompt, by name."""
    stored_prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fields that may hold a reference to a stored prompt, and the member of it with its variables."""

    roles: Mapping[str, str] = field(default_factory=dict[str, str])
    """Role names of the wire with another name here."""
    text_fields: frozenset[str] = frozenset()
    signed_types: frozenset[str] = frozenset()
    """Types of parts that providers sign: their texts are not touched."""
    signed_flags: frozenset[str] = frozenset()
    """Members that are true in such parts, of the model and without a type."""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    """Types of a part's `source`, and the member with its text."""
    contents: tuple[str, ...] = ()
    """Members with the texts that an item of the conversation says."""
    user_members: frozenset[str] = frozenset()
    """Members that make an item without a role the user's."""
    result_types: tuple[str, ...] = ()
    """Endings of the types of objects that hold a tool's result."""
    result_items: tuple[str, ...] = ()
    """Those of `result_types` that are items of the conversation."""
    result_parts: frozenset[str] = frozenset()
    """Types of the parts of a user's message that are a result of the client's tool."""
    result_texts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Types of objects that hold a tool's result as a text, under a member that holds data elsewhere."""
    results: Mapping[str, str] = field(default_factory=dict[str, str])
    """Members of a part or the body that hold a tool's result, or a list of them, and the member with its JSON
    value."""
    named_texts: frozenset[str] = frozenset()
    """Members that may hold an object with texts by name."""
    repeats: frozenset[str] = frozenset()
    """Members that repeat the texts beside them in pieces. They are removed if one of these changes."""
    calls: frozenset[str] = frozenset()
    """Members that hold a tool call, or a list of them."""
    arguments: frozenset[str] = frozenset()
    readers: tuple[PartReader, ...] = ()
    """Functions that give the calls, results and reasoning of an item of the conversation, or of a part of one."""
    surroundings: tuple[Callable[[Json], Json], ...] = ()
    """Functions that give what the agent's program tells about its surroundings."""

    tools: tuple[str, ...] = ()
    """Fields of the body that list the tools."""
    tool_choices: tuple[str, ...] = ()
    declarations: tuple[str, ...] = ()
    """Members of a tool that declare one or several; "tools" holds tools again."""
    schemas: tuple[str, ...] = ()
    """Members of a tool with the JSON schema of its arguments."""
    implied_tools: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fields of the body that switch a tool on, and its name."""
    loaded_tools: frozenset[str] = frozenset()
    """Types of the conversation's items that bring tools."""
    added_tools: frozenset[str] = frozenset()
    """Types of the parts of such items that bring a tool; other parts may hold several under `tool_changes`."""
    unlisted_tools: tuple[str, ...] = ()
    """Fields of the body that bring tools without their names."""
    token_limits: tuple[tuple[str, ...], ...] = ()
    """Paths of the fields with the most tokens that a response may have."""


def merged(shapes: Iterable[RequestShape]) -> RequestShape:
    """Returns the union of `shapes`; of one name with two meanings the first counts."""
    union: dict[str, Any] = {}
    for shape in shapes:
        for one in fields(RequestShape):
            value: Any = getattr(shape, one.name)
            known: Any = union.get(one.name)
            if known is None:
                union[one.name] = value
            elif isinstance(value, frozenset):
                union[one.name] = known | value
            elif isinstance(value, tuple):
                union[one.name] = tuple(dict.fromkeys(known + value))
            else:
                union[one.name] = {**value, **known}
    return RequestShape(**union)


def map_texts(body: Json, shape: RequestShape, change: TextChange, of_arguments: ArgumentChange | None) -> Json:
    """Returns `body` with its texts changed, and with `of_arguments` also the arguments of earlier tool calls.
    Returns the same object if nothing changed."""
    texts = _TextMap(shape, change, of_arguments)

    def body_field(key: str, value: object) -> object:
        if key in shape.variables:
            return texts.map_variables(value)
        if key in shape.stored_prompts and isinstance(value, dict):
            member = shape.stored_prompts[key]
            return _map_fields(
                cast(dict[str, Any], value), lambda name, item: texts.map_variables(item) if name == member else item
            )
        if key in shape.results:
            return texts.map_results(value, shape.results[key])
        return texts.map_value(value, shape.texts[key]) if key in shape.texts else value

    return _map_fields(body, body_field)


class _TextMap:
    """The change of all texts in a value of a body."""

    def __init__(self, shape: RequestShape, change: TextChange, of_arguments: ArgumentChange | None) -> None:
        self._shape = shape
        self._change = change
        self._of_arguments = of_arguments

    def map_value(self, value: object, role: str) -> object:
        """Returns a text, a message, a part, or a list of them, changed."""
        if isinstance(value, str):
            return self._change(role, value)
        if isinstance(value, list):
            return _map_items(cast(list[object], value), lambda item: self.map_value(item, role))
        if isinstance(value, dict):
            return self._map_part(cast(dict[str, object], value), role)
        return value

    def map_variables(self, variables: object, role: str = "user") -> object:
        """Returns an object with its texts by name changed, as those for a stored prompt."""
        if not isinstance(variables, dict):
            return variables
        plain = _TextMap(self._shape, self._change, None)
        return _map_fields(cast(dict[str, Any], variables), lambda _, value: plain.map_value(value, role))

    def map_results(self, value: object, member: str) -> object:
        """Returns a tool's result changed, or a list of them."""
        if isinstance(value, list):
            return _map_items(cast(list[object], value), lambda item: self.map_results(item, member))
        return self._map_result(cast(dict[str, object], value), member) if isinstance(value, dict) else value

    def _map_part(self, part: dict[str, object], role: str) -> object:
        shape = self._shape
        role = self._role(part, role)
        if _is_signed(part, shape, role):
            return part
        own = shape.result_texts.get(str(part.get("type")))

        def part_field(key: str, value: object) -> object:
            if key in shape.named_texts and isinstance(value, dict):
                return self.map_variables(cast(dict[str, object], value), role)
            if key in shape.text_fields or key == own:
                return self.map_value(value, role)
            if key == "source" and isinstance(value, dict):
                return self._map_source(cast(dict[str, object], value), role)
            if key in shape.results:
                return self.map_results(value, shape.results[key])
            return value if self._of_arguments is None else self._map_call_field(key, value, self._of_arguments)

        changed = _map_fields(part, part_field)
        return part if changed is part else {key: changed[key] for key in changed if key not in shape.repeats}

    def _role(self, part: Json, role: str) -> str:
        kind, own = part.get("type"), part.get("role")
        if isinstance(kind, str) and kind.endswith(self._shape.result_types):
            return "tool"
        if role == "system" or not isinstance(own, str):  # Gemini CLI calls its system instruction a user's
            return role
        return self._shape.roles.get(own, own)

    def _map_source(self, source: dict[str, object], role: str) -> object:
        """Returns the source of a document changed: a text, or parts. An image's source is neither."""
        member = self._shape.sources.get(str(source.get("type")))
        plain = _TextMap(self._shape, self._change, None)
        return _map_fields(source, lambda key, value: plain.map_value(value, role) if key == member else value)

    def _map_result(self, result: dict[str, object], member: str) -> object:
        def result_field(key: str, value: object) -> object:
            if key == member:
                return map_strings(value, lambda text: self._change("tool", text))
            return value if self._of_arguments is None else self._map_call_field(key, value, self._of_arguments)

        return _map_fields(result, result_field)

    def _map_call_field(self, key: str, value: object, change: ArgumentChange) -> object:
        """Returns a field changed that may hold tool calls, or the arguments of one."""
        if key in self._shape.calls:
            if isinstance(value, list):
                return _map_items(cast(list[object], value), lambda call: self._map_call(call, change))
            return self._map_call(value, change)
        return change(value) if key in self._shape.arguments else value

    def _map_call(self, call: object, change: ArgumentChange) -> object:
        if not isinstance(call, dict):
            return call
        return _map_fields(cast(dict[str, object], call), lambda key, value: self._map_call_field(key, value, change))


def map_strings(value: object, change: Callable[[str], str]) -> object:
    """Returns a JSON value with each string changed, save keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return _map_items(cast(list[object], value), lambda item: map_strings(item, change))
    if isinstance(value, dict):
        return _map_fields(cast(dict[str, object], value), lambda _, item: map_strings(item, change))
    return value


def _map_items(items: list[object], change: Callable[[object], object]) -> list[object]:
    """Returns the same list if nothing in it changed."""
    changed = [change(item) for item in items]
    return items if all(map(_is_same, items, changed)) else changed


def _map_fields(members: Json, change: Callable[[str, object], object]) -> Json:
    """Returns the same mapping if nothing in it changed."""
    changed = {key: change(key, value) for key, value in members.items()}
    return members if all(map(_is_same, members.values(), changed.values())) else changed


def _is_same(old: object, new: object) -> bool:
    return new is old or (isinstance(new, str) and new == old)


def conversation(body: Json, shape: RequestShape) -> Sequence[Json]:
    """Returns the items of the conversation; a plain text is one message of the user."""
    for said in (body.get(key) for key in shape.conversation):
        if isinstance(said, str):
            return [{"role": "user", "content": said}]
        if isinstance(said, list):
            return _objects([_message(item) for item in cast(list[object], said)])
    return ()


def _message(item: object) -> object:
    """Returns an item of a conversation; a bare text is one of several prompts."""
    return {"role": "user", "content": item} if isinstance(item, str) else item


def author(item: Json, shape: RequestShape) -> Author:
    """Returns the author of an item of the conversation."""
    own = item.get("role")
    role = shape.roles.get(own, own) if isinstance(own, str) else None
    if role == "tool" or str(item.get("type") or "").endswith(shape.result_items):
        return "tool"
    if role == "system":
        return "system"
    return "user" if role == "user" or (own is None and shape.user_members & item.keys()) else "model"


def is_tool_result(item: Json, shape: RequestShape, is_added: Callable[[str], bool]) -> bool:
    """Tells whether `item` is a tool's result, and the user added no text, save those for which `is_added` is true."""
    if author(item, shape) == "tool":
        return True
    parts = _objects(_content(item, shape))
    has_result = any(
        str(part.get("type")) in shape.result_parts or shape.results.keys() & part.keys() for part in parts
    )
    return has_result and all(map(is_added, item_texts(item, shape)))


def item_texts(item: Json, shape: RequestShape) -> Iterator[str]:
    """Yields the texts of an item of the conversation."""
    return _texts(_content(item, shape))


def item_pieces(item: Json, shape: RequestShape) -> Iterator[Piece]:
    """Yields the pieces of an item of the conversation: reasoning, texts, calls and results."""
    own = [piece for read in shape.readers for piece in read(item)]
    yield from (piece for piece in own if isinstance(piece, Thought))
    if not (any(isinstance(piece, ToolResult) for piece in own) or _is_signed(item, shape)):
        is_tools = author(item, shape) == "tool"
        pieces = _content_pieces(_content(item, shape), shape)
        yield from (piece for piece in pieces if not (is_tools and isinstance(piece, str)))
    yield from (piece for piece in own if not isinstance(piece, Thought))


def _content_pieces(content: object, shape: RequestShape) -> Iterator[Piece]:
    if isinstance(content, str):
        yield content
    for part in cast(list[object], content) if isinstance(content, list) else ():
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            yield from _part_pieces(cast(Json, part), shape)


def _part_pieces(part: Json, shape: RequestShape) -> Iterator[Piece]:
    own = [piece for read in shape.readers for piece in read(part)]
    yield from own
    if own or _is_signed(part, shape):
        return
    if isinstance(text := part.get("text"), str):
        yield text
    elif attached := readable.read({key: part[key] for key in ("source", "content") if key in part}):
        yield Attachment(attached)


def _is_signed(part: Json, shape: RequestShape, role: str = "assistant") -> bool:
    """Tells whether a provider signs the part: it is reasoning. A message, with a role of its own, never is, nor a part
    of the user with a flag: a client may add both to any text."""
    if "role" in part:
        return False
    if "type" in part:
        return str(part["type"]) in shape.signed_types
    return role == "assistant" and any(part.get(flag) is True for flag in shape.signed_flags)


def tool_call(holder: Json, arguments: object, *, form: ToolForm = "function", id: str = "id") -> ToolCall:
    """Returns a call of the conversation. Its arguments are the model's own text, or JSON; of a value that is too deep
    for JSON only the texts stay."""
    return ToolCall(string_in(holder, id) or None, string_in(holder, "name"), _as_text(arguments), form)


def tool_result(holder: Json, content: object, *, id: str, is_error: object = False) -> ToolResult:
    """Returns a result of the conversation, with all readable texts of its content."""
    return ToolResult(string_in(holder, id), string_in(holder, "name"), readable.read({"": content}), bool(is_error))


def string_in(holder: Json, key: str) -> str:
    value = holder.get(key)
    return value if isinstance(value, str) else ""


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps({} if value is None else value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError):
        return readable.read({"": value})


def instructions(body: Json, shape: RequestShape) -> Iterator[str]:
    """Yields the texts of the system prompt."""
    for key in shape.instructions:
        yield from _texts(body.get(key))
    for message in _objects([body.get(key) for key in shape.instruction_messages]):
        yield from item_texts(message, shape)
    for item in conversation(body, shape):
        if author(item, shape) == "system":
            yield from item_texts(item, shape)


def surroundings(body: Json, shape: RequestShape) -> Json:
    """Returns the description of its surroundings that the agent's program gives."""
    for read in shape.surroundings:
        if found := read(body):
            return found
    return {}


def token_limit(body: Json, shape: RequestShape) -> object:
    """Returns the most tokens that the response may have; None if the body does not say."""
    return next((limit for path in shape.token_limits if (limit := _at(body, path)) is not None), None)


def _at(body: object, path: Sequence[str]) -> object:
    for key in path:
        body = cast(Json, body).get(key) if isinstance(body, Mapping) else None
    return body


def _content(item: Json, shape: RequestShape) -> object:
    return next((item[key] for key in shape.contents if item.get(key)), None)


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    yield from (part["text"] for part in _objects(content) if isinstance(part.get("text"), str))


def tool_names(body: Json, shape: RequestShape) -> tuple[str, ...]:
    """Returns the names of the tools that the request offers; of a tool without a name, its type, or its key."""
    named = (name for tool in _offered(body, shape) for name in _names(tool, shape))
    implied = (name for key, name in shape.implied_tools.items() if body.get(key))
    return tuple(dict.fromkeys((*named, *implied)))


def tool_description(body: Json, shape: RequestShape, name: str) -> str:
    """Returns the description of a tool that the request offers, and the grammar of its free text; "" without one."""
    texts: list[str] = []
    for tool in _named(body, shape, name):
        grammar: object = _at(tool, ("format", "definition")) or _at(tool, ("format", "grammar", "definition"))
        texts += [text for text in (tool.get("description"), grammar) if isinstance(text, str)]
    return "\n".join(texts)


def tool_schema(body: Json, shape: RequestShape, name: str) -> Json | None:
    """Returns the JSON schema of a tool that the request offers; None without one."""
    schemas = (tool.get(member) for tool in _named(body, shape, name) for member in shape.schemas)
    return next((cast(Json, schema) for schema in schemas if isinstance(schema, Mapping)), None)


def _named(body: Json, shape: RequestShape, name: str) -> Iterator[Json]:
    """Yields the offered tools with this name."""
    waiting = _offered(body, shape)
    while waiting:
        tool = waiting.pop(0)
        waiting += [
            inner
            for member in shape.declarations
            for inner in _objects(tool.get(member)) or _objects([tool.get(member)])
        ]
        if tool.get("name") == name:
            yield tool


def _offered(body: Json, shape: RequestShape) -> list[Json]:
    offered = [tool for key in shape.tools for tool in _objects(body.get(key))]
    loaded = [tool for item in _loading(body, shape) for tool in _objects(item.get("tools"))]
    return [*offered, *loaded, *_added(body, shape)]


def _added(body: Json, shape: RequestShape) -> Iterator[Json]:
    """Yields the tools that parts of the conversation define."""
    for part in (part for key in shape.conversation for item in _objects(body.get(key)) for part in _parts(item)):
        for change in (part, *_objects(part.get("tool_changes"))):
            tool: object = change.get("tool") if str(change.get("type")) in shape.added_tools else None
            yield from _objects([cast(Json, tool).get("definition")] if isinstance(tool, Mapping) else [])


def _parts(item: Json) -> list[Json]:
    return _objects(item.get("content"))


def has_unlisted_tools(body: Json, shape: RequestShape) -> bool:
    """Tells whether the model may get tools without a name in the body: those of an MCP server, of a stored prompt or
    cached content, or in an unknown form."""
    if any(body.get(key) for key in shape.unlisted_tools):
        return True
    if any(isinstance(body.get(key), Mapping) for key in shape.stored_prompts):
        return True
    return any(_is_unlisted(body[key]) for key in shape.tools if body.get(key)) or any(
        map(_is_mcp, _added(body, shape))
    )


def _is_unlisted(tools: object) -> bool:
    if not isinstance(tools, list):
        return True
    items = cast(list[object], tools)
    return any(not isinstance(tool, Mapping) or _is_mcp(cast(Json, tool)) for tool in items)


def _is_mcp(tool: Json) -> bool:
    inner = _objects(tool.get("tools"))
    return str(tool.get("type") or "").startswith("mcp") or any(map(_is_mcp, inner))


def _loading(body: Json, shape: RequestShape) -> Iterator[Json]:
    """Yields the items of the conversation that bring tools."""
    for key in shape.conversation:
        yield from (item for item in _objects(body.get(key)) if str(item.get("type")) in shape.loaded_tools)


def _names(tool: Json, shape: RequestShape) -> Iterator[str]:
    named = list(_declared(tool, shape))
    kind = tool.get("type")
    if isinstance(tool.get("name"), str) or (named and isinstance(kind, str)):
        yield from named
    elif isinstance(kind, str):
        yield kind
    else:  # Gemini's, where a key names each tool of the provider's
        yield from named
        yield from (key for key, item in tool.items() if isinstance(item, Mapping) and key not in shape.declarations)


def _declared(tool: Json, shape: RequestShape) -> Iterator[str]:
    if isinstance(tool.get("name"), str):
        yield tool["name"]
    for member in shape.declarations:
        inner: object = tool.get(member)
        for declared in _objects(inner) or _objects([inner]):
            yield from _names(declared, shape) if member == "tools" else _declared(declared, shape)


def _objects(value: object) -> list[Json]:
    """Returns the JSON objects in a list; none if the value is not a list."""
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(Json, item) for item in items if isinstance(item, Mapping)]
