"""Record of a transaction in its written form: one JSON object, without credentials."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol, cast

from luthien_litellm_hooks.recording.decision import Approval, AskedAgain, Decision, Identity, Spent
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder, Outcome, ResponseRecord
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.events import ReasoningStreamBlock, StreamBlock, ToolCallStreamBlock
from luthien_litellm_hooks.wire.request_shape import author

_HASH = re.compile("[0-9a-f]{64}")
"""A key that LiteLLM has not hashed is a secret."""
_DECIMALS = 12
"""Decimals of a price in US dollars."""
_IN_RECORDS = ("key_hash", "key_alias", "user_id", "team_id", "team_alias", "org_id", "end_user_id")
"""Fields of an identity in a record: ids and aliases."""
MAX_TEXT_CHARACTERS = 100_000
"""Bound of each text of a request: room for a prompt, but not for a picture."""

SLOT = "spend_logs_metadata"
"""Member of a row's metadata with the records of plugins; ours is under `KEY`."""
KEY = "luthien"
SEALED = "sealed"
"""Key of a stored record with the whole record, encrypted; null if there was no key to encrypt with."""
FORMAT = 2
"""Format of the records. In format 1 `final.request` was never null, and there were neither path nor identity."""
_CLEAR = ("transaction_id", "version", "policies", "outcome", "changed", "chunks", "milliseconds")
_CLEAR_IF_ANY = ("spent",)
_CLEAR_OF_DECISIONS = ("policy", "action", "milliseconds", "is_vote")


class Judged(Protocol):
    """Facts of a transaction for its record; `PolicyContext` has them."""

    transaction_id: str
    identity: Identity
    decisions: list[Decision]
    asked_again: AskedAgain | None

    @property
    def spent(self) -> Spent:
        """Model calls of all policies."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPolicy:
    """Judgement of a policy that only observed a response.

    `content` and `finish_reason` are the response as the policy would have left it. If the policy could not judge,
    `error` says why, without an outcome.
    """

    policy: str
    version: str
    outcome: Outcome | None = None
    is_request_changed: bool = False
    is_response_changed: bool = False
    decisions: Sequence[Decision] = ()
    seconds: float = 0.0
    spent: Spent | None = None
    content: Sequence[Mapping[str, Any]] = ()
    finish_reason: str | None = None
    error: str | None = None


def transaction_record(
    ctx: Judged,
    recorder: DefaultTransactionRecorder,
    version: str,
    policies: Sequence[tuple[str, str]],
    *,
    with_bodies: bool,
    of_last_turn: bool = False,
    path: str | None = None,
    session: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    observed: Sequence[ObservedPolicy] | str | None = None,
) -> dict[str, Any]:
    """Returns the record of a transaction, as new JSON values.

    `version` is that of all settings, `policies` are names and versions, `path`, `session` and `headers` are the
    client's.
    Texts of the request and the response, and quotes of them, are in it only `with_bodies`; `of_last_turn` leaves out
    earlier turns of the request. A request that left as it came is there once, and one that must not be kept as it came
    only as it left, without the decisions' quotes. `observed` are the observing policies' judgements, or the reason for
    none.
    """
    show = last_turn if of_last_turn else redacted
    is_changed, is_hidden = recorder.is_request_changed, recorder.is_original_hidden
    record: dict[str, Any] = {
        "format": FORMAT,
        "transaction_id": ctx.transaction_id,
        "path": path,
        "session": session,
        "headers": redacted(headers),
        "identity": {name: who for name, who in known_identity(ctx.identity).items() if name in _IN_RECORDS},
        "version": version,
        "policies": [{"name": name, "version": version} for name, version in policies],
        "outcome": recorder.outcome,
        "decisions": [_decision(decision, with_bodies=with_bodies and not is_hidden) for decision in ctx.decisions],
        "changed": {
            "request": is_changed,
            "answer": recorder.is_answer_changed,
        },
        "chunks": {"ingress": recorder.ingress.chunks, "egress": recorder.egress.chunks},
        "milliseconds": round(recorder.milliseconds, 3),
    }
    if ctx.spent.calls:
        record["spent"] = _spent(ctx.spent)
    if ctx.asked_again is not None:
        record["asked_again"] = _asked_again(
            ctx.asked_again, with_bodies=with_bodies, with_quotes=with_bodies and not is_hidden
        )
    if observed is not None:
        record["observed"] = (
            observed
            if isinstance(observed, str)
            else [
                _observed(one, with_bodies=with_bodies, with_quotes=with_bodies and not is_hidden) for one in observed
            ]
        )
    if recorder.failure is not None:
        kind, text = recorder.failure
        record["error"] = {"kind": kind, "message": redacted(text)} if with_bodies else {"kind": kind}
    if with_bodies:
        original = None if is_hidden else show(recorder.original_request)
        record["original"] = {"request": original, "answer": _response(recorder.ingress)}
        final = show(recorder.final_request) if is_changed else None
        record["final"] = {"request": final, "answer": _response(recorder.egress)}
    return record


def clear_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part for the owner of the client's key: the outcome, the policies' actions, and counts."""
    clear = {name: record[name] for name in _CLEAR}
    clear |= {name: record[name] for name in _CLEAR_IF_ANY if name in record}
    decisions = [{name: one[name] for name in _CLEAR_OF_DECISIONS if name in one} for one in record["decisions"]]
    return clear | {"decisions": decisions}


def last_turn(body: Mapping[str, Any]) -> Any:
    """Returns the redacted model and last message of the user, where the conversation is a list."""
    shown = {name: value for name, value in body.items() if name == "model"}
    for name in FORMATS.request.conversation:
        turns: object = body.get(name)
        if isinstance(turns, str):
            shown[name] = turns
        elif isinstance(turns, list):
            shown[name] = [item for item in cast(list[object], turns) if _is_users(item)][-1:]
    return redacted(shown)


def _is_users(item: object) -> bool:
    return isinstance(item, Mapping) and author(cast(Mapping[str, object], item), FORMATS.request) == "user"


def description(
    ctx: Judged, route: str, version: str, policies: Sequence[tuple[str, str]], *, with_bodies: bool
) -> dict[str, Any]:
    """Returns the fields of each event of a transaction: the caller, the policies, and their decisions so far."""
    return {
        "route": route,
        "identity": known_identity(ctx.identity),
        "version": version,
        "policies": [{"name": name, "version": version} for name, version in policies],
        "decisions": [_decision(decision, with_bodies=with_bodies) for decision in ctx.decisions],
    }


def known_identity(identity: Identity) -> dict[str, Any]:
    """Returns the known fields of the caller, without a key that is not hashed."""
    known = ((field.name, getattr(identity, field.name)) for field in fields(identity))
    return _without_none(one for one in known if one[0] != "key_hash" or _HASH.fullmatch(str(one[1])))


def redacted(body: object) -> Any:
    """Returns a copy of a request without credentials, its texts cut to `MAX_TEXT_CHARACTERS`."""
    if isinstance(body, str):
        cut = len(body) - MAX_TEXT_CHARACTERS
        return body if cut <= 0 else f"{body[:MAX_TEXT_CHARACTERS]}[{cut} more characters]"
    if isinstance(body, Mapping):
        fields = cast(Mapping[str, object], body)
        return {key: _REDACTED if _is_secret(key, value) else redacted(value) for key, value in fields.items()}
    if isinstance(body, list | tuple):
        return [redacted(item) for item in cast(Sequence[object], body)]
    return body


_REDACTED = "[redacted]"
_CREDENTIALS = (
    *("key", "token", "secret", "password", "passwd", "passphrase"),
    *("authorization", "auth", "cookie", "credential", "credentials", "assertion"),
)


@lru_cache(maxsize=1024)  # clients name the same headers all the time
def is_credential(name: str) -> bool:
    """Holds for the name of a header or field with a credential: `x-api-key`, `accessToken`."""
    return "".join(letter for letter in name.lower() if letter.isalnum()).endswith(_CREDENTIALS)


def _is_secret(key: object, value: object) -> bool:
    return isinstance(value, str) and is_credential(str(key))


def _response(side: ResponseRecord) -> dict[str, Any]:
    truncated = {"is_truncated": True} if side.is_truncated else {}
    return {"content": side.content(), "finish_reason": side.finish_reason, **truncated}


def _observed(one: ObservedPolicy, *, with_bodies: bool, with_quotes: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"policy": one.policy, "version": one.version}
    if one.outcome is None:
        return fields | {"error": one.error}
    fields |= {
        "outcome": one.outcome,
        "changed": {"request": one.is_request_changed, "answer": one.is_response_changed},
        "decisions": [_decision(decision, with_bodies=with_quotes) for decision in one.decisions],
        "milliseconds": round(one.seconds * 1000, 3),
    }
    if one.spent is not None and one.spent.calls:
        fields |= _spent(one.spent)
    if with_bodies and one.is_response_changed:
        fields["answer"] = {"content": [*one.content], "finish_reason": one.finish_reason}
    return fields


def _asked_again(again: AskedAgain, *, with_bodies: bool, with_quotes: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "tools": [*again.tools],
        "result": again.result,
        "milliseconds": round(again.milliseconds, 3),
        "decisions": [_decision(decision, with_bodies=with_quotes) for decision in again.decisions],
    }
    if again.reason is not None:
        fields["reason"] = again.reason
    if again.spent.calls:
        fields |= _spent(again.spent)
    if with_bodies and again.content:
        fields["answer"] = {"content": [*again.content], "finish_reason": again.finish_reason}
    return fields


def _decision(decision: Decision, *, with_bodies: bool) -> dict[str, Any]:
    milliseconds = decision.milliseconds
    fields: dict[str, Any] = {
        "policy": decision.policy,
        "action": decision.action,
        "block": None if decision.block is None else _block(decision.block),
        "reason": decision.reason,
        "score": decision.score,
        "milliseconds": None if milliseconds is None else round(milliseconds, 3),
        "error": decision.error,
        "is_vote": decision.is_vote or None,
    }
    if decision.spent is not None:
        fields |= _spent(decision.spent)
    if decision.approval is not None:
        fields["approval"] = _approval(decision.approval, with_bodies=with_bodies)
    if with_bodies:
        fields |= {"message": decision.message, "evidence": decision.evidence}
    return _without_none(fields.items())


def _approval(approval: Approval, *, with_bodies: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": approval.id,
        "digest": approval.digest,
        "state": approval.state,
        "by": approval.by,
        "waited_ms": round(approval.waited_ms, 3),
        "edited": approval.arguments is not None,
        "grant": approval.grant,
    }
    if with_bodies:
        fields |= {"message": approval.message, "arguments": approval.arguments}
    return _without_none(fields.items())


def _spent(spent: Spent) -> dict[str, Any]:
    return {"calls": spent.calls, "tokens": spent.tokens, "cost": round(spent.cost, _DECIMALS)}


def _block(block: StreamBlock) -> dict[str, Any]:
    if isinstance(block, ToolCallStreamBlock):
        call = {"type": "tool_call", "id": block.id, "name": block.name, "choice": block.choice or None}
        return _without_none(call.items())
    kind = "reasoning" if isinstance(block, ReasoningStreamBlock) else "text"
    return _without_none([("type", kind), ("choice", block.choice or None)])


def _without_none(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None}
