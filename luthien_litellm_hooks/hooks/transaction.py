"""Transaction: the shared state of LiteLLM's hooks for one request, and the way to find it again."""

import asyncio
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakValueDictionary

from litellm.exceptions import GuardrailRaisedException
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.litellm_pre_call_utils import LiteLLMProxyRequestSetup

from luthien_litellm_hooks.hooks.active_policy import ActivePolicy
from luthien_litellm_hooks.hooks.routes import IMAGES, governed_format, path_of
from luthien_litellm_hooks.hooks.spend_logs import MCP_CALL, SLOT, SpendLogEntry, stores_bodies, stores_last_turn
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.llm_client import CALL_MARK
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recording.decision import Identity
from luthien_litellm_hooks.recording.record import description, last_turn, redacted
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.telemetry.spans import Telemetry
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.unstreamed import MCP, MCP_OPERATION

_TOOL_CALLS = "/tools/call"
"""End of LiteLLM's path for an MCP call, from any route."""


class WithheldError(GuardrailRaisedException):
    """Error whose message is for the client: something is withheld.

    LiteLLM turns only this kind of exception into a well-formed error on every route, before and after the first byte.
    """

    def __init__(self, message: str) -> None:
        super().__init__("luthien", message, should_wrap_with_default_message=False)


class UngovernedError(WithheldError):
    """Error for a withheld response. The message says nothing of the cause."""

    def __init__(self) -> None:
        super().__init__("The answer was withheld: it could not be checked.")


@dataclass(slots=True, weakref_slot=True, eq=False)
class Transaction:
    """Request and response, or MCP call and result, with the state of their governance.

    `in_force` holds the policies of each asked callback and guardrail, in that order, as they were then. `context` is
    None on a route without model text, and on one opened by the operator. `outer` is the model's request around an MCP
    call. `immediate_answer` is a policy's answer; the provider is then not called.

    `seen_by` are the names of these callbacks and guardrails. `owner` is the first of them to see the response: it runs
    all their policies.

    `account` is LiteLLM's metadata of the client's key, to charge it with the policies' own calls.
    `asked_again` is LiteLLM's id of the second call to the model, and is set as LiteLLM knows its price.
    `is_provider_asked` is set when LiteLLM is about to call a provider, `is_streaming` when the client's stream begins.
    """

    route: str
    in_force: ActivePolicy
    context: PolicyContext | None = None
    outer: "Transaction | None" = None
    immediate_answer: Answer | None = None
    log_entry: SpendLogEntry | None = None
    seen_by: set[str] = field(default_factory=set[str])
    owner: str | None = None
    is_provider_asked: bool = False
    is_streaming: bool = False
    account: Mapping[str, Any] = field(default_factory=dict[str, Any])
    asked_again: tuple[str, asyncio.Event] | None = None

    def note_failure(self, kind: str, words: str) -> None:
        """Records the provider's failure."""
        if self.log_entry is not None:
            self.log_entry.recorder.note_failure(kind, words)

    @property
    def error_context(self) -> PolicyContext | None:
        """Context of a judged response, once its provider was called; None where LiteLLM's own error may leave.

        With a context, the client gets no error with possible quotes of unjudged text.
        """
        is_governed = FORMATS.of_call_type(self.route) is not None
        is_asked = is_governed and self.is_provider_asked and self.immediate_answer is None
        judged = self.context if is_asked else None
        return judged if judged is not None and self.in_force.executor.judges(judged) else None

    @property
    def is_over(self) -> bool:
        return self.log_entry is not None and self.log_entry.recorder.outcome is not None

    def is_logged_by(self, kwargs: dict[str, Any]) -> bool:
        return self.log_entry is not None and self.log_entry.is_of(kwargs)

    def is_of(self, data: dict[str, Any]) -> bool:
        """Returns whether LiteLLM's `data` surely belong to this transaction."""
        call = None if self.log_entry is None else self.log_entry.call
        return call is not None and data.get("litellm_logging_obj") is call


_SLOT = "luthien_transaction"
_running: WeakValueDictionary[str, Transaction] = WeakValueDictionary()


def mark(data: dict[str, Any], transaction: Transaction, transaction_id: str) -> None:
    """Notes the transaction's id in LiteLLM's own part of `data`."""
    _running[transaction_id] = transaction
    bucket = metadata_of(data)
    if bucket is not None:
        bucket[_SLOT] = transaction_id


def transaction_of(data: dict[str, Any]) -> Transaction | None:
    """Returns the transaction of LiteLLM's `data`.

    LiteLLM may keep a client waiting with pings. It then reports a failure in a context without a current transaction,
    and the mark in `data` leads to it.
    """
    call, found = current_call(), current_transaction()
    is_calls = (path_of(data) or "").endswith(_TOOL_CALLS)  # a model's request around it has the same id
    if call is not None and is_calls and call.log_entry is not None and call.log_entry.has_id_of(data):
        return call
    bucket = metadata_of(data) if found is None else None
    return found if bucket is None else _running.get(str(bucket.get(_SLOT)))


def caller_of(kwargs: dict[str, Any]) -> tuple[Transaction, Mapping[str, Any]] | None:
    """Returns the transaction for which a policy makes the call `kwargs`, and its mark; None for a client's call."""
    if path_of(kwargs) is not None:
        return None
    slot: object = (metadata_of(kwargs) or {}).get(SLOT)
    marked: object = cast(Mapping[str, object], slot).get(CALL_MARK) if isinstance(slot, Mapping) else None
    if not isinstance(marked, Mapping):
        return None
    found = cast(Mapping[str, Any], marked)
    transaction = _running.get(str(found.get("transaction_id")))
    return None if transaction is None else (transaction, found)


def metadata_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """Returns LiteLLM's own metadata; on messages and Responses the client's `metadata` go to the provider."""
    held = (data.get("litellm_metadata"), data.get("metadata"))
    return next((cast(dict[str, Any], one) for one in held if isinstance(one, dict)), None)


_current: ContextVar[Transaction | None] = ContextVar("luthien_transaction", default=None)


def current_transaction() -> Transaction | None:
    """Returns the running transaction of a model's request; None before its first hook."""
    found = _current.get()
    return found.outer if found is not None and found.route == MCP_CALL else found


def current_call() -> Transaction | None:
    """Returns the transaction of the latest MCP call, alone or within a model's request."""
    found = _current.get()
    return found if found is not None and found.route == MCP_CALL else None


def set_current(transaction: Transaction | None) -> None:
    """Begins a transaction in this context. An MCP call leaves the transaction around it in place."""
    if transaction is not None and transaction.route == MCP_CALL:
        transaction.outer = current_transaction()
    _current.set(transaction)


def logged_transaction(kwargs: dict[str, Any]) -> Transaction | None:
    """Returns the transaction behind LiteLLM's logging `kwargs`; None for a call of a policy's own."""
    call, transaction = current_call(), current_transaction()
    if call is not None and call.log_entry is not None and call.log_entry.is_same_call(kwargs):
        return call
    return transaction if transaction is not None and transaction.is_logged_by(kwargs) else None


def begin(
    transaction: Transaction,
    telemetry: Telemetry,
    user: UserAPIKeyAuth | None,
    request: Request,
    data: dict[str, Any],
    recorder_type: type[DefaultTransactionRecorder] = DefaultTransactionRecorder,
) -> SpendLogEntry:
    """Gives a transaction its id, its context with recorder and span, and its entry in the spend logs."""
    transaction_id = str(uuid.uuid4())
    name, operation = _names_of(transaction.route)
    observability = telemetry.begin(
        transaction_id,
        route=name,
        operation=operation,
        model=request.model if transaction.route != MCP_CALL else None,
        is_streaming=request.is_streaming,
        parent=None if user is None else cast(object, user.parent_otel_span),
    )
    kept = transaction.in_force.record
    with_bodies = stores_bodies(kept.bodies, user)
    show = last_turn if stores_last_turn(kept.bodies) else redacted
    recorder = recorder_type(
        observability,
        show=show if with_bodies else None,
        keeps_original=kept.original == "always",
        describe=lambda: _description(transaction, with_bodies=with_bodies and not recorder.is_original_hidden),
    )
    transaction.context = PolicyContext(
        transaction_id, request, identity=read_identity(user), observability=observability, recorder=recorder
    )
    mark(data, transaction, transaction_id)
    transaction.account = _account_of(user)
    transaction.log_entry = SpendLogEntry.begin(
        transaction.context,
        recorder,
        transaction.in_force,
        data,
        user,
        route=transaction.route,
        rewrites_log=FORMATS.of_call_type(transaction.route) is not None,
    )
    return transaction.log_entry


def _account_of(user: UserAPIKeyAuth | None) -> Mapping[str, Any]:
    if user is None:
        return {}
    known = cast(Any, LiteLLMProxyRequestSetup)
    fields: dict[str, Any] = known.get_sanitized_user_information_from_key(user_api_key_dict=user)
    return {**fields, "user_api_key": known.get_logged_api_key(user)}


def _names_of(call_type: str) -> tuple[str, str | None]:
    """Returns the route's name in records, spans and metrics, and OpenTelemetry's name for the operation."""
    if call_type in IMAGES:
        return "images", None
    if call_type == MCP_CALL:
        return MCP, MCP_OPERATION
    wire = governed_format(call_type)
    return wire.name, wire.operation


def _description(transaction: Transaction, *, with_bodies: bool) -> dict[str, Any]:
    if transaction.context is None:
        return {}
    known = description(
        transaction.context,
        _names_of(transaction.route)[0],
        transaction.in_force.version,
        transaction.in_force.policies,
        with_bodies=with_bodies,
    )
    return {**known, "session": transaction.context.request.session}


def read_identity(user: UserAPIKeyAuth | None) -> Identity:
    """Returns the identity behind the key, without the teams of the key's owner."""
    if user is None:
        return Identity()
    return Identity(
        key_hash=user.token or user.api_key,
        key_alias=user.key_alias,
        key_maker_id=user.created_by,
        user_id=user.user_id,
        user_email=user.user_email,
        team_id=user.team_id,
        team_alias=user.team_alias,
        org_id=user.org_id,
        end_user_id=user.end_user_id,
    )
