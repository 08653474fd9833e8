"""Second call of the client's model through LiteLLM's router, paid by the client's key."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth

from luthien_litellm_hooks.engine.composition import run_of
from luthien_litellm_hooks.hooks.request_data import keys_of, own_extra_body, write_request
from luthien_litellm_hooks.hooks.routes import adapter_for, governed_format
from luthien_litellm_hooks.hooks.spend_logs import SLOT
from luthien_litellm_hooks.hooks.transaction import Transaction, current_transaction, metadata_of
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.llm_client import CALL_MARK
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.decision import AskedAgain, Spent
from luthien_litellm_hooks.wire.format import Adapter, NextTurn, Refusal, json_copy

AGAIN_TAG = "luthien:again"
"""Tag of these calls in the spend logs."""
_LITELLMS = frozenset(
    {"headers", "provider_specific_header", "litellm_session_id", "litellm_trace_id", "user"}
    | {"allowed_model_region", "disable_fallbacks", "enable_tag_filtering", "litellm_disabled_callbacks"}
    | {"api_key", "organization", "api_version", "drop_params"}
)
"""Fields that LiteLLM adds to a request: the forwarded headers, whose request it is, and the limits of its key."""
_IDENTITY = "user_api_"
"""Prefix of LiteLLM's metadata about the key, its team and its budgets."""
_AUTH, _RESERVED = "user_api_key_auth", "user_api_key_budget_reservation"
"""The key itself, and the part of its budget that LiteLLM has reserved for the first call."""
_ROUTING = frozenset({"inherited_tags", "caller_tags", "user_agent"})
_TAGS, _ROUTING_TAGS = "tags", "_routing_request_tags"
"""Tags of the logs and budgets, and those that choose a deployment. Without the second, LiteLLM takes the first."""
_NOT_AGAIN = frozenset(
    {"stream", "stream_options", "mock_response"}
    | {"fallbacks", "context_window_fallbacks", "content_policy_fallbacks"}
)
_PRIVATE: Mapping[str, Any] = {"cache": {"no-cache": True, "no-store": True}, "turn_off_message_logging": True}
"""Neither a cache nor a log gets what policies may withhold."""


def client_model(transaction: Transaction, data: dict[str, Any]) -> "ClientModel | None":
    """Returns the model to ask again after a response with nothing but withheld calls; None if there is none to ask.

    `data` are LiteLLM's of the client's request.
    """
    context, turn = transaction.context, governed_format(transaction.route).next_turn
    if transaction.in_force.executor.on_block != "retry" or context is None or turn is None:
        return None
    return ClientModel(transaction, context, turn, data) if transaction.immediate_answer is None else None


class ClientModel:
    """Model of one client's request, as LiteLLM's router chooses it for the same key."""

    def __init__(self, transaction: Transaction, context: PolicyContext, turn: NextTurn, data: dict[str, Any]) -> None:
        self._transaction = transaction
        self._context = context
        self._turn = turn
        self._data = data

    def next_request(self, request: Request, response: Sequence[object], refusals: Sequence[Refusal]) -> Request | None:
        """Returns the client's next request, if it answered the response with `refusals`."""
        body = self._turn.body(json_copy(dict(request.body)), response, refusals)
        return None if body is None else replace(request, body=body)

    async def respond(self, request: Request, again: AskedAgain) -> object:
        """Returns the model's full response. It is not cached, and no log has its texts."""
        call_id = str(uuid.uuid4())
        priced = asyncio.Event()
        run_of(self._context).pending_votes.append(priced)
        self._transaction.asked_again = (call_id, priced)
        try:
            router = cast(Any, proxy_server).llm_router
            return await getattr(router, self._turn.call)(**self._call(request), litellm_call_id=call_id)
        except BaseException:
            priced.set()
            raise

    def new_adapter(self) -> Adapter:
        """Returns an adapter for that response."""
        return adapter_for(self._transaction.route, self._context.final_request)

    def _call(self, request: Request) -> dict[str, Any]:
        """Returns LiteLLM's arguments: those of the client's call, with another body and account."""
        call = dict(self._data)
        own_extra_body(call)
        write_request(call, request)
        is_new_kind = "litellm_metadata" in call
        clients: object = call.get("metadata")
        call = {name: call[name] for name in keys_of(call) - _NOT_AGAIN}
        call = {name: self._data[name] for name in _LITELLMS & self._data.keys()} | call
        if is_new_kind and clients is not None:
            call["metadata"] = clients
        call["litellm_metadata" if is_new_kind else "metadata"] = self._account()
        return {**call, **_PRIVATE}

    def _account(self) -> dict[str, Any]:
        """Returns LiteLLM's metadata of the client's call, for another row: its key, budgets and tags."""
        mark = {"transaction_id": self._context.transaction_id, "policy": self._context.policy_name, "why": "on_block"}
        theirs = metadata_of(self._data) or {}
        known = {name: theirs[name] for name in theirs if name.startswith(_IDENTITY) or name in _ROUTING}
        known.pop(_RESERVED, None)
        if isinstance(auth := known.get(_AUTH), UserAPIKeyAuth):
            known[_AUTH] = auth.model_copy(update={"budget_reservation": None})
        tags = theirs.get(_TAGS) or ()
        known |= {_TAGS: [*tags, AGAIN_TAG], _ROUTING_TAGS: theirs.get(_ROUTING_TAGS, tags)}
        return {**known, **self._transaction.account, SLOT: {CALL_MARK: mark}}


def note_price(kwargs: Mapping[str, Any]) -> None:
    """Notes the tokens and the price of a second call, as LiteLLM logs and charges it."""
    transaction = current_transaction()
    if transaction is None or transaction.asked_again is None or transaction.context is None:
        return
    call_id, priced = transaction.asked_again
    again = transaction.context.asked_again
    if kwargs.get("litellm_call_id") != call_id or again is None or priced.is_set():
        return
    logged = cast(Mapping[str, Any], kwargs.get("standard_logging_object") or {})
    cost: float = kwargs.get("response_cost") or logged.get("response_cost") or 0.0
    again.spent = Spent(1, logged.get("total_tokens") or 0, cost)
    transaction.context.spending.add(again.spent)
    priced.set()
