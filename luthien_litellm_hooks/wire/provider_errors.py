"""Errors in a provider's response, and the messages that clients get instead of the provider's own."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from litellm.types.llms.openai import GenericEvent
from pydantic import BaseModel

from luthien_litellm_hooks.wire.sse import SseDecoder, data_of, write_frame

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
"""Values of `type` of OpenAI, Anthropic and LiteLLM; clients decide by them."""
_CODES = frozenset(
    {CONTEXT_EXCEEDED, "insufficient_quota", "rate_limit_exceeded", "invalid_api_key", "model_not_found"}
    | {"server_error", "server_is_overloaded", "slow_down", "invalid_prompt", "content_filter"}
    | {"content_policy_violation", "usage_not_included"}
)
_GOOGLE_STATUSES = frozenset(
    {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"}
    | {"ABORTED", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "CANCELLED", "DATA_LOSS", "UNKNOWN", "INTERNAL"}
    | {"UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
)
"""https://cloud.google.com/apis/design/errors#handling_errors"""
_NOT_SSE = re.compile(rb"\n(?!data:|event:|[\n:]|id:|retry:|\xef\xbb\xbfdata:|\Z)")
"""Beginning of a line that is not of an event stream, behind the line feed before it."""
_SENTENCES = {
    # Agents that compact their context search for exactly these words.
    "ContextWindowExceededError": f"prompt is too long: it exceeds the maximum context length ({CONTEXT_EXCEEDED}).",
    "ContentPolicyViolationError": "The provider's content policy refused the request.",
    "UnsupportedParamsError": "The model does not support a parameter of the request (see LiteLLM's `drop_params`).",
    "JSONSchemaValidationError": "The response does not fit the schema.",
    "Timeout": "The provider took too long.",
    401: "The provider did not accept the proxy's credentials.",
    403: "The provider does not allow the request.",
    404: "The provider does not know the requested resource.",
    408: "The provider took too long.",
    413: "The request is too large.",
    429: "The provider limits the rate of requests.",
    529: "The provider is overloaded.",
}


def sentence(status: int, name: str = "") -> str:
    """Returns a client's message for an error of this status or LiteLLM class `name`, without the provider's words."""
    found = _SENTENCES.get(name) or _SENTENCES.get(status)
    return found or ("The request could not be served." if status < 500 else "The provider failed.")


def known_type(type: object, status: int) -> str:
    """Returns `type` if it means the same everywhere, otherwise the type of the status."""
    if isinstance(type, str) and type in _TYPES:
        return type
    return _TYPE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "internal_server_error")


def known_code(code: object) -> str | None:
    """Returns `code` if clients decide by it, otherwise None."""
    return code if isinstance(code, str) and code in _CODES else None


@dataclass(frozen=True, slots=True)
class ReportedFailure:
    """Error in a unit of a response: its kind, and the provider's message, for the operator alone."""

    kind: str
    message: str


class ErrorRedactor:
    """Replaces the provider's messages in the errors of one response; clients get `transaction_id` instead.

    `failure` is the latest error, None before the first.
    """

    def __init__(self, transaction_id: str) -> None:
        self._transaction_id = transaction_id
        self.failure: ReportedFailure | None = None

    def redact(self, unit: object) -> object:
        """Returns `unit` itself, or if it has an error a copy without the provider's message."""
        if isinstance(unit, bytes):
            return self._frames(unit) if _may_have_error(unit) or _has_other_lines(unit) else unit
        if isinstance(unit, BaseModel):
            return self._model(unit)
        return self._object(cast(dict[str, Any], unit)) if isinstance(unit, dict) else unit

    def _frames(self, data: bytes) -> bytes:
        decoder = SseDecoder()
        return b"".join(map(self._frame, [*decoder.feed(data), *decoder.flush()]))

    def _frame(self, frame: bytes) -> bytes:
        if _has_other_lines(frame):  # such as a page of a server between us and the provider
            frame = b"".join(line for line in frame.splitlines(keepends=True) if not _has_other_lines(line))
        if not _may_have_error(frame):
            return frame
        try:
            payload: object = json.loads(data_of(frame))
        except (ValueError, RecursionError):
            return frame
        redacted = self._object(cast(dict[str, Any], payload)) if isinstance(payload, dict) else payload
        if redacted is payload:
            return frame
        return write_frame(json.dumps(redacted), event="error" if frame.startswith(b"event:") else None)

    def _object(self, unit: dict[str, Any]) -> dict[str, Any]:
        """Redacts an error of Anthropic's or Gemini's form."""
        error = _fields(unit.get("error"))
        if not error:
            return unit
        if unit.get("type") == "error":
            kind = known_type(error.get("type"), 500)
            return {"type": "error", "error": {"type": kind, "message": self._message(kind, error)}}
        code = error.get("code") if isinstance(error.get("code"), int) else 500
        kind = str(error.get("status")) if error.get("status") in _GOOGLE_STATUSES else "UNKNOWN"
        return {**unit, "error": {"code": code, "message": self._message(kind, error), "status": kind}}

    def _model(self, unit: BaseModel) -> BaseModel:
        """Redacts an error event of Responses, an event with a failed response, or any response with an error."""
        if _field(unit, "type") == "error":
            error = _fields(_field(unit, "error")) or {"code": _field(unit, "code"), "message": _field(unit, "message")}
            kind = known_code(error.get("code")) or "server_error"
            fields = {"code": kind, "message": self._message(kind, error), "param": None}
            return GenericEvent.model_validate(
                {"type": "error", "sequence_number": _field(unit, "sequence_number"), **fields}
            )
        response = _field(unit, "response")
        if isinstance(response, BaseModel):
            redacted = self._model(response)
            return unit if redacted is response else unit.model_copy(update={"response": redacted})
        error = _fields(_field(unit, "error"))
        if not error:
            return unit
        if _field(unit, "output") is None:
            return unit.model_copy(update=self._object({"error": error}))
        kind = known_code(error.get("code")) or "server_error"
        return unit.model_copy(update={"error": {"code": kind, "message": self._message(kind, error)}})

    def _message(self, kind: str, error: Mapping[str, object]) -> str:
        self.failure = ReportedFailure(kind, str(error.get("message") or ""))
        return f"{sentence(529 if kind == 'overloaded_error' else 500)} ({kind}, transaction {self._transaction_id})"


def _may_have_error(data: bytes) -> bool:
    """Holds for `data` with the key of an error, also in escapes, which no encoder uses for plain letters."""
    return b"error" in data or b"\\u006" in data or b"\\u007" in data


def _has_other_lines(data: bytes) -> bool:
    """Tells if `data` has a line that is not of an event stream: no policy has read it, so no client may."""
    return _NOT_SSE.search(b"\n" + data.replace(b"\r", b"\n")) is not None


def _field(model: BaseModel, name: str) -> Any:
    """Returns a field or None. For an absent field, `getattr` takes three times as long."""
    found = model.__dict__.get(name)
    return found if found is not None else (model.__pydantic_extra__ or {}).get(name)


def _fields(error: object) -> Mapping[str, Any]:
    """Returns the fields of an error of any form, {} if there is none."""
    if error is None:
        return {}
    if isinstance(error, BaseModel):
        return error.model_dump()
    return cast(Mapping[str, Any], error) if isinstance(error, Mapping) else {"message": error}
