"""The request as a policy sees it, and the answer a policy may give in the model's stead."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from luthien_litellm_hooks.policy import offered_tools, turns
from luthien_litellm_hooks.policy.turns import Turn


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for.

    `body` is the request in the client's own wire format, without what LiteLLM adds to it, and with
    the fields of `extra_body` in their place, since they replace those of the request. It is a
    copy: to change the request, return a new one from `on_request`, best made with `replace`.
    `route` is the path that the client asked, "/v1/messages" say. `headers` are the client's, under
    lower-case names and without those that carry credentials. Neither reaches the provider.

    The rest is for `when`. `models` are all names of the models that may answer, None if they cannot
    be told, and `paths` those that lead to the same route. `alternatives` are the requests that
    LiteLLM may make in this one's stead, as the client's `fallbacks` say.
    """

    body: Mapping[str, Any]
    route: str = field(default="", compare=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
    models: Collection[str] | None = field(default=(), compare=False)
    paths: Collection[str] = field(default=(), compare=False)
    alternatives: "Sequence[Request]" = field(default=(), compare=False)

    @property
    def model(self) -> str:
        """The model as the client named it, in the body, the path or the query."""
        return str(self.body.get("model") or "")

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The conversation so far; empty on a route that has none."""
        return self._list("messages")

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        """The tools that the client offers the model."""
        return self._list("tools")

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names of these tools, whatever the route; of a tool without a name, its type."""
        return offered_tools.tool_names(self.body)

    @property
    def has_untold_tools(self) -> bool:
        """The model may get tools beside these: those of an MCP server, or of a stored prompt."""
        return offered_tools.has_untold_tools(self.body)

    @property
    def turn(self) -> Turn:
        """Whose turn this is: the `user` said something; the last message is the result of a `tool`,
        and the agent goes on by itself; or the agent asks something on the `side`, a probe that wants
        one token, or a title, a summary, a suggestion, in words that known agents use.

        Any client can use these words. So a side request may be spared a check of what was asked,
        never the check of an answer.
        """
        return turns.turn_of(self.body)

    @property
    def is_streaming(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True

    def replace(self, **fields: object) -> "Request":
        """A request with these fields of the body set."""
        return dataclasses.replace(self, body={**self.body, **fields})

    def without(self, *fields: str) -> "Request":
        """A request without these fields of the body."""
        return dataclasses.replace(self, body={key: value for key, value in self.body.items() if key not in fields})

    def _list(self, key: str) -> Sequence[Mapping[str, Any]]:
        value: object = self.body.get(key)
        return cast(Sequence[Mapping[str, Any]], value) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What `on_request` returns to answer the client itself; the provider is not called."""

    text: str
