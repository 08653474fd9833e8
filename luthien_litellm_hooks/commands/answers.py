"""Answers to try policies on: what a provider sent, of whatever wire, a plain text, or a recorded transaction."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.hooks.routes import NAMES
from luthien_litellm_hooks.inspection.printing import HOW_TO_STORE
from luthien_litellm_hooks.inspection.transactions import Block, Record, Transaction
from luthien_litellm_hooks.testing.answers import Call, Say, Step, Think
from luthien_litellm_hooks.testing.routes import RouteName
from luthien_litellm_hooks.testing.run import Script


@dataclass(frozen=True, slots=True)
class TriedAnswer:
    """What the model said, on which route, to which request."""

    route: RouteName
    script: Script
    request: Mapping[str, Any] | None = None


def read_answer(file: Path) -> TriedAnswer:
    """The answer in `file`: a recorded stream, the JSON of a full answer, or else a text. Raises
    `ConfigError`."""
    try:
        content = file.read_bytes()
        text = content.decode()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no UTF-8: neither a recorded answer nor a text") from None
    for payload in _payloads(text):
        return TriedAnswer(_route_of(payload, file), content)
    payload = _object(text)
    return TriedAnswer("chat", text) if payload is None else TriedAnswer(_route_of(payload, file), payload)


def recorded_answer(transaction: Transaction, record: Record) -> TriedAnswer:
    """The answer of a transaction as it came. Raises `ConfigError` if its texts are not stored."""
    if record.original is None:
        raise ConfigError(HOW_TO_STORE)
    route = cast(RouteName, NAMES.get(transaction.route, "chat"))
    return TriedAnswer(route, [_step(block) for block in record.original.answer.content], record.original.request)


def _step(block: Block) -> Step:
    if block.type == "tool_call":
        return Call(block.name or "", block.arguments, block.id)
    return Think(block.text) if block.type == "reasoning" else Say(block.text)


def _payloads(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of a stream of server-sent events."""
    for line in text.splitlines():
        payload = _object(line.removeprefix("data:")) if line.startswith("data:") else None
        if payload is not None:
            yield payload


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else None


def _route_of(payload: Mapping[str, Any], file: Path) -> RouteName:
    """The route by the marks of its wire, in a full answer or in the first event of a stream."""
    kind = str(payload.get("type"))
    choices: object = payload.get("choices")
    if "candidates" in payload:
        return "gemini"
    if isinstance(choices, list):
        is_text = any(isinstance(choice, dict) and "text" in choice for choice in cast(list[object], choices))
        return "completions" if is_text else "chat"
    if kind.startswith("response.") or payload.get("object") == "response":
        return "responses"
    if kind in ("message", "message_start"):
        return "messages"
    raise ConfigError(f"{file} is JSON, but of no wire format that a policy can govern; a text must be no JSON object")
