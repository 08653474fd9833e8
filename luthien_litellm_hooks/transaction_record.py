"""The record of a transaction, as it is written: one JSON object."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from luthien_litellm_hooks.events import ReasoningStreamBlock, StreamBlock, ToolCallStreamBlock
from luthien_litellm_hooks.policy.context import Decision, PolicyContext
from luthien_litellm_hooks.policy.credentials import is_credential
from luthien_litellm_hooks.recorder import AnswerRecord, DefaultTransactionRecorder

_HASH = re.compile("[0-9a-f]{64}")
"""A key that LiteLLM has not hashed is a secret."""
MAX_TEXT_CHARACTERS = 100_000
"""What is kept of each text of a request: all of a prompt, but not of a picture."""

SEALED = "sealed"
"""The member of a stored record that holds the whole record, encrypted; null if there was no key to do it with."""
_CLEAR = ("transaction_id", "version", "policies", "outcome", "changed", "chunks", "milliseconds")
_CLEAR_OF_DECISIONS = ("policy", "action", "milliseconds", "is_vote")
_CONVERSATIONS = ("messages", "input", "contents", "prompt")


def transaction_record(
    ctx: PolicyContext,
    kept: DefaultTransactionRecorder,
    version: str,
    policies: Sequence[tuple[str, str]],
    *,
    with_bodies: bool,
    of_last_turn: bool = False,
) -> dict[str, Any]:
    """What is known of a transaction, as new JSON values. `version` is that of all settings that it met, `policies`
    are names and versions. Only with `with_bodies` does it hold texts of the request and the answer, and what
    quotes them; with `of_last_turn` no earlier turns of the request."""
    show = _last_turn if of_last_turn else shown
    record: dict[str, Any] = {
        "transaction_id": ctx.transaction_id,
        "version": version,
        "policies": [{"name": name, "version": version} for name, version in policies],
        "outcome": kept.outcome,
        "decisions": [_decision(decision, with_bodies=with_bodies) for decision in ctx.decisions],
        "changed": {"request": kept.original_request != kept.final_request, "answer": kept.is_answer_changed},
        "chunks": {"ingress": kept.ingress.chunks, "egress": kept.egress.chunks},
        "milliseconds": round(kept.milliseconds, 3),
    }
    if kept.failure is not None:
        kind, words = kept.failure
        record["error"] = {"kind": kind, "message": shown(words)} if with_bodies else {"kind": kind}
    if with_bodies:
        record["original"] = {"request": show(kept.original_request), "answer": _answer(kept.ingress)}
        record["final"] = {"request": show(kept.final_request), "answer": _answer(kept.egress)}
    return record


def clear_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the owner of the client's key may know: how it ended, which policies did what, and counts."""
    clear = {name: record[name] for name in _CLEAR}
    decisions = [{name: one[name] for name in _CLEAR_OF_DECISIONS if name in one} for one in record["decisions"]]
    return clear | {"decisions": decisions}


def _last_turn(body: Mapping[str, Any]) -> Any:
    """What may be shown of the model and of the user's last message, where the conversation is a list."""
    kept = {name: value for name, value in body.items() if name == "model"}
    for name in _CONVERSATIONS:
        said: object = body.get(name)
        if isinstance(said, str):
            kept[name] = said
        elif isinstance(said, list):
            kept[name] = [item for item in cast(list[object], said) if _is_users(item)][-1:]
    return shown(kept)


def _is_users(item: object) -> bool:
    if not isinstance(item, Mapping):
        return False
    said = cast(Mapping[str, object], item)
    return said.get("role") == "user" or ("role" not in said and "parts" in said)


def description(
    ctx: PolicyContext, route: str, version: str, policies: Sequence[tuple[str, str]], *, with_bodies: bool
) -> dict[str, Any]:
    """What each event of a transaction tells: who asked, which policies it met, and what they have decided so far."""
    who = {
        name: value for name, value in asdict(ctx.identity).items() if name != "key_hash" or _HASH.fullmatch(str(value))
    }
    return {
        "route": route,
        "identity": _without_nothing(who.items()),
        "version": version,
        "policies": [{"name": name, "version": version} for name, version in policies],
        "decisions": [_decision(decision, with_bodies=with_bodies) for decision in ctx.decisions],
    }


def shown(body: object) -> Any:
    """What may be shown of a request: a copy without credentials, its texts cut to `MAX_TEXT_CHARACTERS`."""
    if isinstance(body, str):
        cut = len(body) - MAX_TEXT_CHARACTERS
        return body if cut <= 0 else f"{body[:MAX_TEXT_CHARACTERS]}[{cut} more characters]"
    if isinstance(body, Mapping):
        fields = cast(Mapping[str, object], body)
        return {key: _REDACTED if _is_secret(key, value) else shown(value) for key, value in fields.items()}
    if isinstance(body, list | tuple):
        return [shown(item) for item in cast(Sequence[object], body)]
    return body


_REDACTED = "[redacted]"


def _is_secret(key: object, value: object) -> bool:
    return isinstance(value, str) and is_credential(str(key))


def _answer(side: AnswerRecord) -> dict[str, Any]:
    truncated = {"is_truncated": True} if side.is_truncated else {}
    return {"content": side.content(), "finish_reason": side.finish_reason, **truncated}


def _decision(decision: Decision, *, with_bodies: bool) -> dict[str, Any]:
    milliseconds = decision.milliseconds
    told: dict[str, Any] = {
        "policy": decision.policy,
        "action": decision.action,
        "block": None if decision.block is None else _block(decision.block),
        "reason": decision.reason,
        "score": decision.score,
        "milliseconds": None if milliseconds is None else round(milliseconds, 3),
        "error": decision.error,
        "is_vote": decision.is_vote or None,
    }
    if with_bodies:
        told |= {"message": decision.message, "evidence": decision.evidence}
    return _without_nothing(told.items())


def _block(block: StreamBlock) -> dict[str, Any]:
    if isinstance(block, ToolCallStreamBlock):
        named = {"type": "tool_call", "id": block.id, "name": block.name, "choice": block.choice or None}
        return _without_nothing(named.items())
    kind = "reasoning" if isinstance(block, ReasoningStreamBlock) else "text"
    return _without_nothing([("type", kind), ("choice", block.choice or None)])


def _without_nothing(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None}
