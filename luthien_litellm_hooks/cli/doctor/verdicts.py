"""Verdicts on the replies to probes.

* `governed`: the reply succeeded, and its whole text is the proof of this very probe. The plugin writes it on governed
  routes, so its request hook and its response hook both ran.
* `refused`: the plugin closed the route (its own error, or a refused websocket) or withheld the response. Or the policy
  itself refused the probe or responded to it, which leaves unknown how it treats responses of the route.
* `NOT GOVERNED`: any other success: a text without the proof, or with anything beside it, no text, or an
  unreadable reply.
* `not available`: an error of another origin, or no reply. It proves nothing either way. A route that should be refused
  was then not closed by the plugin, but sent nothing.

So a doubt never counts as governed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from luthien_litellm_hooks.hooks import governed, refused
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import event_payloads

Verdict = Literal["governed", "refused", "not available", "NOT GOVERNED"]

_CLOSED = "so it is closed"  # in the plugin's error on a closed route
_WITHHELD = "The answer was withheld"
_MESSAGE_KEYS = ("error", "detail", "response", "message")
_MAX_REASON = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and its reason."""

    verdict: Verdict
    reason: str = ""


_REFUSED_BY_POLICY = Finding("refused", "the policy refused the probe, or responded itself")


def judge_reply(status: int, body: str, nonce: str) -> Finding:
    """Judges a reply over HTTP, full or streamed."""
    payloads = list(_payloads(body))
    text = "".join(part for payload in payloads for part in _texts(payload))
    errors = [payload for payload in payloads if _error(payload)]
    if 200 <= status < 300 and (text or not errors):
        return _judge_text(text, nonce)
    message = next(filter(None, map(_message, errors or payloads)), body)
    if refused(nonce) in message:
        return _REFUSED_BY_POLICY
    is_ours = any(_fields(_error(payload)).get("type") == "policy_error" for payload in errors)
    return judge_error(message, f"HTTP {status}: ", is_ours=is_ours)


def _judge_text(text: str, nonce: str) -> Finding:
    if _is_only(text, governed(nonce)):
        return Finding("governed")
    if _is_only(text, refused(nonce)):
        return _REFUSED_BY_POLICY
    return Finding("NOT GOVERNED", "a response came without the policy's proof")


def judge_event(event: str | bytes) -> Finding:
    """Judges the first event on a websocket."""
    payload = _json(event)
    if _error(payload):
        return judge_error(_message(payload) or "an error")
    return Finding("NOT GOVERNED", "the websocket is open, and no policy sees its responses")


def judge_error(message: str, where: str = "", *, is_ours: bool = False) -> Finding:
    """Judges a failure by its message; `is_ours` if the plugin is known to have caused it."""
    if _CLOSED in message:
        return Finding("refused", "closed: no policy can see its responses")
    if is_ours or _WITHHELD in message:
        return Finding("refused", where + message)
    return Finding("not available", where + message)


def shorten(message: str) -> str:
    """Returns one short line, fit for a terminal."""
    line = " ".join("".join(char if char.isprintable() else " " for char in message).split())
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 1]}…"


def _is_only(text: str, proof: str) -> bool:
    """Tells if the text is the proof alone. Some formats repeat a text."""
    return bool(text) and not text.replace(proof, "")


def _payloads(body: str) -> Iterator[object]:
    """Yields the JSON of a full reply, or of each event of a stream."""
    if (payload := _json(body)) is not None:
        yield payload
        return
    for line in body.splitlines():
        if line.startswith("data:") and (payload := _json(line.removeprefix("data:"))) is not None:
            yield payload
    for wire in FORMATS:
        if wire.units is not event_payloads:
            yield from wire.units(body)


def _json(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _texts(value: object, key: str = "") -> Iterator[str]:
    """Yields all texts of a model, in any of the formats."""
    match value:
        case str():
            if key in FORMATS.response_texts:
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
    """Returns the error in a payload; a false value if it has none."""
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
