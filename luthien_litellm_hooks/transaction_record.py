"""The record of a transaction, as it is written: one JSON object."""

from collections.abc import Iterable, Mapping
from typing import Any

from luthien_litellm_hooks.events import ReasoningStreamBlock, StreamBlock, ToolCallStreamBlock
from luthien_litellm_hooks.policy.context import Decision, PolicyContext
from luthien_litellm_hooks.recorder import AnswerRecord, DefaultTransactionRecorder


def transaction_record(
    ctx: PolicyContext, kept: DefaultTransactionRecorder, policies: Mapping[str, str], *, with_bodies: bool
) -> dict[str, Any]:
    """What is known of a transaction. `policies` are names to versions. Only with `with_bodies` does
    it hold texts of the request and the answer, and what quotes them."""
    record: dict[str, Any] = {
        "transaction_id": ctx.transaction_id,
        "policies": [{"name": name, "version": version} for name, version in policies.items()],
        "outcome": kept.outcome,
        "decisions": [_decision(decision, with_bodies=with_bodies) for decision in ctx.decisions],
        "changed": {"request": kept.original_request != kept.final_request, "answer": kept.is_answer_changed},
        "chunks": {"ingress": kept.ingress.chunks, "egress": kept.egress.chunks},
        "milliseconds": round(kept.milliseconds, 3),
    }
    if with_bodies:
        record["original"] = {"request": kept.original_request, "answer": _answer(kept.ingress)}
        record["final"] = {"request": kept.final_request, "answer": _answer(kept.egress)}
    return record


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
