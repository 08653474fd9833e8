"""Errors that a provider tells of in an answer, and the words that a client gets instead of the provider's own."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from litellm.types.llms.openai import GenericEvent
from pydantic import BaseModel

from luthien_litellm_hooks.adapters.sse import SseDecoder, data_of, write_frame

CONTEXT_EXCEEDED = "context_length_exceeded"
_TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_TYPES = frozenset(
    {"invalid_request_error", "authentication_error", "permission_error", "not_found_error", "request_too_large"}
    | {"rate_limit_error", "throttling_error", "insufficient_quota", "billing_error", "timeout_error", "tokens"}
    | {"api_error", "overloaded_error", "server_error", "internal_server_error", "service_unavailable", "requests"}
)
"""The kinds of errors that OpenAI, Anthropic and LiteLLM name in `type`, by which clients decide."""
_CODES = frozenset(
    {CONTEXT_EXCEEDED, "insufficient_quota", "rate_limit_exceeded", "invalid_api_key", "model_not_found"}
    | {"server_error", "server_is_overloaded", "slow_down", "invalid_prompt", "content_filter"}
    | {"content_policy_violation", "usage_not_included"}
)
_GOOGLES = frozenset(
    {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"}
    | {"ABORTED", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "CANCELLED", "DATA_LOSS", "UNKNOWN", "INTERNAL"}
    | {"UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
)
"""https://cloud.google.com/apis/design/errors#handling_errors"""
_NO_EVENT = re.compile(rb"(?:\A|[\r\n])(?!(?:\xef\xbb\xbf)?data:|event:|id:|retry:|:|[\r\n]|\Z)")
"""Where a line begins that is none of an event stream's: no client may read it, and no policy has."""
_SENTENCES = {
    # Agents that compact their context look for these very words.
    "ContextWindowExceededError": f"prompt is too long: it exceeds the maximum context length ({CONTEXT_EXCEEDED}).",
    "ContentPolicyViolationError": "The provider's content policy refused the request.",
    "UnsupportedParamsError": "The model does not support a parameter of the request (see LiteLLM's `drop_params`).",
    "JSONSchemaValidationError": "The answer does not fit the schema.",
    "Timeout": "The provider took too long.",
    401: "The provider did not accept the proxy's credentials.",
    403: "The provider does not allow the request.",
    404: "The provider does not know what was asked for.",
    408: "The provider took too long.",
    413: "The request is too large.",
    429: "The provider limits how often it is asked.",
    529: "The provider is overloaded.",
}


def sentence(status: int, name: str = "") -> str:
    """What is said of an error of this status, and of LiteLLM's class of this `name`; it quotes nobody."""
    found = _SENTENCES.get(name) or _SENTENCES.get(status)
    return found or ("The request could not be served." if status < 500 else "The provider failed.")


def known_type(type: object, status: int) -> str:
    """`type` if it is one of those that mean the same everywhere, else that of the status."""
    if isinstance(type, str) and type in _TYPES:
        return type
    return _TYPE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "internal_server_error")


def known_code(code: object) -> str | None:
    """`code` if it is one of those that clients decide by."""
    return code if isinstance(code, str) and code in _CODES else None


@dataclass(frozen=True, slots=True)
class ToldFailure:
    """An error that stands in a unit of an answer: its kind, and the words that are for the operator alone."""

    kind: str
    words: str


class Unquoting:
    """Takes the provider's words out of the errors in the units of one client's answer; `transaction_id` is told
    instead. `failure` is the latest error, None as long as there was none. Units without any leave as they are."""

    def __init__(self, transaction_id: str) -> None:
        self._transaction_id = transaction_id
        self.failure: ToldFailure | None = None

    def unit(self, unit: object) -> object:
        """`unit`, or one like it that quotes nothing."""
        if isinstance(unit, bytes):
            return self._frames(unit) if b"error" in unit or _NO_EVENT.search(unit) else unit
        if isinstance(unit, BaseModel):
            return self._model(unit)
        return self._object(cast(dict[str, Any], unit)) if isinstance(unit, dict) else unit

    def _frames(self, data: bytes) -> bytes:
        decoder = SseDecoder()
        return b"".join(map(self._frame, [*decoder.feed(data), *decoder.flush()]))

    def _frame(self, frame: bytes) -> bytes:
        if _NO_EVENT.search(frame):  # a page of a server between us and the provider, say
            frame = b"".join(line for line in frame.splitlines(keepends=True) if not _NO_EVENT.match(line))
        try:
            came: object = json.loads(data_of(frame))
        except (ValueError, RecursionError):
            return frame
        said = self._object(cast(dict[str, Any], came)) if isinstance(came, dict) else came
        if said is came:
            return frame
        return write_frame(json.dumps(said), event="error" if frame.startswith(b"event:") else None)

    def _object(self, came: dict[str, Any]) -> dict[str, Any]:
        """An error of Anthropic's, or of Gemini's."""
        error = _fields(came.get("error"))
        if not error:
            return came
        if came.get("type") == "error":
            kind = known_type(error.get("type"), 500)
            return {"type": "error", "error": {"type": kind, "message": self._told(kind, error)}}
        code = error.get("code") if isinstance(error.get("code"), int) else 500
        kind = str(error.get("status")) if error.get("status") in _GOOGLES else "UNKNOWN"
        return {**came, "error": {"code": code, "message": self._told(kind, error), "status": kind}}

    def _model(self, came: BaseModel) -> BaseModel:
        """An error of Responses, what holds a response that failed, or any answer that tells of an error."""
        if _field(came, "type") == "error":
            given = _fields(_field(came, "error")) or {"code": _field(came, "code"), "message": _field(came, "message")}
            kind = known_code(given.get("code")) or "server_error"
            said = {"code": kind, "message": self._told(kind, given), "param": None}
            return GenericEvent.model_validate(
                {"type": "error", "sequence_number": _field(came, "sequence_number"), **said}
            )
        response = _field(came, "response")
        if isinstance(response, BaseModel):
            retold = self._model(response)
            return came if retold is response else came.model_copy(update={"response": retold})
        given = _fields(_field(came, "error"))
        if not given:
            return came
        if _field(came, "output") is None:
            return came.model_copy(update=self._object({"error": given}))
        kind = known_code(given.get("code")) or "server_error"
        return came.model_copy(update={"error": {"code": kind, "message": self._told(kind, given)}})

    def _told(self, kind: str, error: Mapping[str, object]) -> str:
        self.failure = ToldFailure(kind, str(error.get("message") or ""))
        return f"{sentence(529 if kind == 'overloaded_error' else 500)} ({kind}, transaction {self._transaction_id})"


def _field(model: BaseModel, name: str) -> Any:
    """A field, or None; in a third of the time that `getattr` takes where there is none."""
    found = model.__dict__.get(name)
    return found if found is not None else (model.__pydantic_extra__ or {}).get(name)


def _fields(error: object) -> Mapping[str, Any]:
    """What an error says, in whatever form it came; empty if there is none."""
    if error is None:
        return {}
    if isinstance(error, BaseModel):
        return error.model_dump()
    return cast(Mapping[str, Any], error) if isinstance(error, Mapping) else {"message": error}
