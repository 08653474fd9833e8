"""The request as a policy sees it, and the answer a policy may give in the model's stead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for.

    `body` is the request in the client's own wire format, without what LiteLLM adds to it. It is a
    copy: to change the request, return a new one from `on_request`, best made with `replace`.
    """

    body: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The model as the client named it."""
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
    def is_streaming(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True

    def replace(self, **fields: object) -> "Request":
        """A request with these fields of the body set."""
        return Request({**self.body, **fields})

    def without(self, *fields: str) -> "Request":
        """A request without these fields of the body."""
        return Request({key: value for key, value in self.body.items() if key not in fields})

    def _list(self, key: str) -> Sequence[Mapping[str, Any]]:
        value: object = self.body.get(key)
        return cast(Sequence[Mapping[str, Any]], value) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What `on_request` returns to answer the client itself; the provider is not called."""

    text: str
