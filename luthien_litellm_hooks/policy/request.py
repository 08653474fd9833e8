"""Requests for policies, and a policy's own answer instead of the model's response."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

from luthien_litellm_hooks.policy.json_strings import map_json_strings
from luthien_litellm_hooks.policy.notices import NOTICE_MARK, parted
from luthien_litellm_hooks.policy.trajectory import Trajectory, is_added, trajectory_of
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.request_shape import (
    author,
    conversation,
    has_unlisted_tools,
    instructions,
    is_tool_result,
    item_texts,
    map_strings,
    surroundings,
    token_limit,
    tool_description,
    tool_names,
    tool_schema,
)
from luthien_litellm_hooks.wire.request_shape import map_texts as map_body_texts

Turn = Literal["user", "tool", "side"]

_SIDE_OPENINGS = (
    # Claude Code
    "Analyze if this message indicates a new conversation topic",
    "Generate a concise, sentence-case title",
    "You are naming a coding session",
    "Summarize this coding conversation in under",
    "Please write a 5-10 word title for the following conversation",
    "You are a helpful AI assistant tasked with summarizing conversations",
    "Your task is to create a detailed summary of the conversation so far",
    "The user stepped away and is coming back",
    "[SUGGESTION MODE:",
    "Your task is to process Bash commands that an AI coding agent wants to run",
    "Extract any file paths that this command reads or modifies",
    "You are a security monitor for autonomous AI coding agents",
    # OpenCode
    "You are a title generator",
    "You are an anchored context summarization assistant",
    "Summarize what was done in this conversation",
    # Codex
    "You are a helpful assistant. You will be presented with a user prompt, and your job is to provide a short title",
    "Generate a concise, single-line task title",
    "You are performing a CONTEXT CHECKPOINT COMPACTION",
    # Gemini CLI
    "Analyze *only* the content and structure of your immediately preceding response",
)
"""Openings of the texts by which agents ask for titles, summaries and the like, as seen in their traffic."""


@dataclass(frozen=True, slots=True)
class Request:
    """Request of a client.

    `body` is the request in the client's own wire format, without LiteLLM's additions. Fields of `extra_body` are in
    their place, because they replace those of the request. It is a copy: to change the request, return a new one from
    `on_request`, best made with `replace`. `route` is the path called by the client, such as "/v1/messages". `headers`
    are the client's, with lower-case names and without credentials. Neither of them reaches the provider.

    `session` is the id of the agent's session, from LiteLLM or from fields of the client; None without one. A client
    can name any session, so it proves nothing.

    The other fields are for `when`. `models` are all names of the models that may respond, None if unknown. `paths` are
    those of the same route. `alternatives` are the requests that LiteLLM may send instead, according to the client's
    `fallbacks`. `is_untold`: LiteLLM does not tell the client's request, as of an MCP call.
    """

    body: Mapping[str, Any]
    route: str = field(default="", compare=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
    session: str | None = field(default=None, compare=False)
    models: Collection[str] | None = field(default=(), compare=False)
    paths: Collection[str] = field(default=(), compare=False)
    alternatives: "Sequence[Request]" = field(default=(), compare=False)
    is_untold: bool = field(default=False, compare=False)

    @property
    def model(self) -> str:
        """Name of the model in the client's words, from the body, the path or the query."""
        return str(self.body.get("model") or "")

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """Conversation so far; empty on a route without one."""
        return self._list("messages")

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        """Tools offered to the model by the client."""
        return self._list("tools")

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of these tools, on any route; a tool without a name gives its type."""
        return tool_names(self.body, FORMATS.request)

    @property
    def has_untold_tools(self) -> bool:
        """True if the model may get more tools: those of an MCP server, or of a stored prompt."""
        return has_unlisted_tools(self.body, FORMATS.request)

    @property
    def turn(self) -> Turn:
        """Origin of the request: `user`, `tool` or `side`.

        On a `user` turn the user said something. On a `tool` turn the last message is a tool's result, and the agent
        continues by itself. On a `side` turn the agent wants a probe of one token, a title, a summary or a suggestion,
        in the words of known agents.

        Any client can use these words. A side request may skip a check of the request, never a check of the response.
        """
        return turn_of(self.body)

    @property
    def trajectory(self) -> Trajectory:
        """Conversation so far in neutral words, on any route: texts, and tool calls with their results.

        It holds only the parts that the request holds. A client may leave steps out, and a provider may store them.
        """
        return trajectory_of(self.body, self.session)

    @property
    def surroundings(self) -> Mapping[str, object]:
        """Machine and mode of the agent in its program's words: `permission_mode`, `platform`, `live_cwd`, `home_dir`
        and `trusted_directories` of Claude Code in its auto mode. Empty if the request has none."""
        return surroundings(self.body, FORMATS.request)

    @property
    def is_streaming(self) -> bool:
        """True if the client asked for a stream."""
        return self.body.get("stream") is True

    def replace(self, **fields: object) -> "Request":
        """Returns a request with these fields of the body set."""
        return dataclasses.replace(self, body={**self.body, **fields})

    def without(self, *fields: str) -> "Request":
        """Returns a request without these fields of the body."""
        return dataclasses.replace(self, body={key: value for key, value in self.body.items() if key not in fields})

    def _list(self, key: str) -> Sequence[Mapping[str, Any]]:
        value: object = self.body.get(key)
        return cast(Sequence[Mapping[str, Any]], value) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Response of a policy to the client, returned by `on_request`; the provider is not called."""

    text: str


def description_of_tool(request: Request, name: str) -> str:
    """Returns the words with which the request offers a tool; "" without any."""
    return tool_description(request.body, FORMATS.request, name)


def schema_of_tool(request: Request, name: str) -> Mapping[str, Any] | None:
    """Returns the JSON schema with which the request offers a tool; None without one."""
    return tool_schema(request.body, FORMATS.request, name)


def turn_of(body: Mapping[str, Any]) -> Turn:
    """Returns the turn of a request's body; see `Request.turn`."""
    shape = FORMATS.request
    items = conversation(body, shape)
    last = next((item for item in reversed(items) if author(item, shape) in ("user", "tool")), None)
    texts = [
        *instructions(body, shape),
        *(item_texts(last, shape) if last is not None else ()),
    ]
    if token_limit(body, shape) == 1 or any(text.lstrip().startswith(_SIDE_OPENINGS) for text in texts):
        return "side"
    return "tool" if last is not None and is_tool_result(last, shape, is_added) else "user"


@dataclass(frozen=True, slots=True)
class RequestText:
    """A text of a request. `role` is "system" (also a developer's), "user", "assistant" or "tool" on every wire.
    `is_notice` marks our own notice in an earlier response."""

    role: str
    text: str
    is_notice: bool


def iter_texts(request: Request) -> Iterator[RequestText]:
    """Returns the texts of the request, in its order: the conversation, the system prompt, the results of tools, and
    texts beside these, such as stop sequences.

    Left alone are reasoning (providers sign it), descriptions of tools, schemas, ids, names, addresses, and everything
    but texts.
    """
    texts: list[RequestText] = []

    def note(role: str, text: str) -> str:
        texts.extend(RequestText(role, part, is_ours) for part, is_ours in _parted(role, text))
        return text

    map_body_texts(request.body, FORMATS.request, note, None)
    return iter(texts)


def map_texts(request: Request, change: Callable[[str], str], *, tool_arguments: bool = False) -> Request:
    """Returns the request with every text changed; with `tool_arguments` also the strings in the arguments of earlier
    tool calls. Of our own notices only the mark stays: anybody can write it. Returns the same object if nothing
    changed."""

    def changed(role: str, text: str) -> str:
        return "\n\n".join(_marked(part, change) if is_ours else change(part) for part, is_ours in _parted(role, text))

    of_arguments = partial(_map_arguments, change=change) if tool_arguments else None
    body = map_body_texts(request.body, FORMATS.request, changed, of_arguments)
    return request if body is request.body else request.replace(**body)


def _map_arguments(value: object, change: Callable[[str], str]) -> object:
    """Returns the arguments of a call changed; those that are a JSON text keep its form."""
    mapped = map_json_strings(value, change) if isinstance(value, str) else None
    return map_strings(value, change) if mapped is None else mapped


def _marked(text: str, change: Callable[[str], str]) -> str:
    before, mark, after = text.partition(NOTICE_MARK)
    return before + mark + change(after)


def _parted(role: str, text: str) -> list[tuple[str, bool]]:
    return parted(text) if role == "assistant" and NOTICE_MARK in text else [(text, False)]
