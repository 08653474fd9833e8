"""What a reply to a probe proves.

* `governed`: the reply succeeded, and all the text in it is the proof of this very probe. The plugin
  writes that where it governs answers, so its request hook and its answer hook both ran.
* `refused`: the plugin closed the route (its own error, or a websocket that was not opened) or withheld
  the answer; or the policy itself refused or answered the probe, and then nothing is known of how the
  route's answers would have been treated.
* `NOT GOVERNED`: any other success, whatever it says: a text without the proof, or with anything
  beside it, none at all, or something that cannot be read.
* `not available`: an error that is not the plugin's, or no reply. It proves nothing either way; of a
  route that should be refused it says that the plugin did not close it, and that nothing came.

So a doubt never counts as governed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from luthien_litellm_hooks.doctor_proof import governed, refused

Verdict = Literal["governed", "refused", "not available", "NOT GOVERNED"]

_CLOSED = "so it is closed"  # what the plugin says of a route that it closes
_WITHHELD = "The answer was withheld"
_TEXT_KEYS = frozenset({"text", "content", "delta", "thinking", "reasoning_content", "refusal", "arguments"})
_MESSAGE_KEYS = ("error", "detail", "response", "message")
_MAX_REASON = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, and what there is to say about it."""

    verdict: Verdict
    reason: str = ""


_REFUSED_BY_POLICY = Finding("refused", "the policy let no model answer the probe")


def judge_reply(status: int, body: str, nonce: str) -> Finding:
    """What a reply over HTTP proves, full or streamed."""
    payloads = list(_payloads(body))
    said = "".join(text for payload in payloads for text in _texts(payload))
    errors = [payload for payload in payloads if _error(payload)]
    if 200 <= status < 300 and (said or not errors):
        return _judge_answer(said, nonce)
    message = next(filter(None, map(_message, errors or payloads)), body)
    if refused(nonce) in message:
        return _REFUSED_BY_POLICY
    is_ours = any(_fields(_error(payload)).get("type") == "policy_error" for payload in errors)
    return judge_error(message, f"HTTP {status}: ", is_ours=is_ours)


def _judge_answer(said: str, nonce: str) -> Finding:
    if _is_only(said, governed(nonce)):
        return Finding("governed")
    if _is_only(said, refused(nonce)):
        return _REFUSED_BY_POLICY
    return Finding("NOT GOVERNED", "an answer came without the policy's proof")


def judge_event(event: str | bytes) -> Finding:
    """What the first event on a websocket proves."""
    payload = _json(event)
    if _error(payload):
        return judge_error(_message(payload) or "an error")
    return Finding("NOT GOVERNED", "the websocket is open, and no policy sees its answers")


def judge_error(message: str, where: str = "", *, is_ours: bool = False) -> Finding:
    """What a failure with this message proves; `is_ours` if the plugin is known to have made it."""
    if _CLOSED in message:
        return Finding("refused", "closed: no policy can see its answers")
    if is_ours or _WITHHELD in message:
        return Finding("refused", where + message)
    return Finding("not available", where + message)


def shorten(message: str) -> str:
    """One line of it, fit for a terminal."""
    line = " ".join("".join(char if char.isprintable() else " " for char in message).split())
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 1]}…"


def _is_only(said: str, proof: str) -> bool:
    """Some formats say the same text more than once."""
    return bool(said) and not said.replace(proof, "")


def _payloads(body: str) -> Iterator[object]:
    """The JSON of a full reply, or of each event of a stream."""
    if (whole := _json(body)) is not None:
        yield whole
        return
    for line in body.splitlines():
        if line.startswith("data:") and (payload := _json(line.removeprefix("data:"))) is not None:
            yield payload


def _json(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _texts(value: object, key: str = "") -> Iterator[str]:
    """All that a model may have said, in any of the formats."""
    match value:
        case str():
            if key in _TEXT_KEYS:
                yield value
        case dict():
            for name, inner in cast(dict[str, object], value).items():
                yield from _texts(inner, name)
        case list():
            for inner in cast(list[object], value):
                yield from _texts(inner, key)
        case _:
            pass


def _error(payload: object) -> object:
    """The error that a payload reports; something false if none."""
    fields = _fields(payload)
    return fields.get("error") or _fields(fields.get("response")).get("error")


def _message(value: object) -> str | None:
    match value:
        case str():
            return value
        case list():
            return next(filter(None, map(_message, cast(list[object], value))), None)
        case dict():
            fields = _fields(cast(object, value))
            return next(filter(None, (_message(fields.get(key)) for key in _MESSAGE_KEYS)), None)
        case _:
            return None


def _fields(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
