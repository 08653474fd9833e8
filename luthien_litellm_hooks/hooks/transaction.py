"""What the hooks of one request hand on to each other."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakValueDictionary

from litellm.exceptions import GuardrailRaisedException

from luthien_litellm_hooks.hooks.in_force import InForce
from luthien_litellm_hooks.hooks.spend_logs import Logged
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer


class UngovernedError(GuardrailRaisedException):
    """An answer is withheld. The only kind of exception that LiteLLM turns into a well-formed error
    on every route, before and after the first byte; its message says nothing of the cause."""

    def __init__(self) -> None:
        super().__init__(
            guardrail_name="luthien",
            message="The answer was withheld: it could not be checked.",
            should_wrap_with_default_message=False,
        )


@dataclass(slots=True, weakref_slot=True, eq=False)
class Transaction:
    """A request and its answer, whoever of us LiteLLM asks about them.

    `in_force` are the policies of all that were asked, one behind the other, as they were then. `context`
    is None on a route without model text, or one that the operator has opened; `beside` is one for the texts
    that stand beside pictures. `in_stead` is what a policy answered, so that the provider is not to be called.

    `asked` are the names of those that LiteLLM asked about the request; `judge` is the one of them that
    runs all their policies over the answer, None as long as nobody has come to it.

    `is_provider_asked` is set when LiteLLM sets out to ask one, `is_streaming` when the client's stream begins.
    """

    route: str
    in_force: InForce
    context: PolicyContext | None = None
    beside: PolicyContext | None = None
    in_stead: Answer | None = None
    logged: Logged | None = None
    asked: set[str] = field(default_factory=set[str])
    judge: str | None = None
    is_provider_asked: bool = False
    is_streaming: bool = False

    def note_failure(self, kind: str, words: str) -> None:
        """Keeps for the record how a provider failed."""
        if self.logged is not None:
            self.logged.kept.note_failure(kind, words)

    @property
    def told_of_errors(self) -> PolicyContext | None:
        """That of an answer which policies judge, and whose provider was asked: a client is not to read in an error
        what these have not seen. None where LiteLLM's own error may leave."""
        judged = self.context if self.is_provider_asked and self.in_stead is None else None
        return judged if judged is not None and self.in_force.executor.judges(judged) else None

    @property
    def is_over(self) -> bool:
        """Whether its outcome is known."""
        return self.logged is not None and self.logged.kept.outcome is not None

    def is_of(self, data: dict[str, Any]) -> bool:
        """Whether it is surely the one that LiteLLM's `data` belong to."""
        call = None if self.logged is None else self.logged.call
        return call is not None and data.get("litellm_logging_obj") is call


_SLOT = "luthien_transaction"
_running: WeakValueDictionary[str, Transaction] = WeakValueDictionary()


def mark(data: dict[str, Any], transaction: Transaction, transaction_id: str) -> None:
    """Notes in LiteLLM's own part of `data` which transaction they belong to."""
    _running[transaction_id] = transaction
    bucket = _bucket_of(data)
    if bucket is not None:
        bucket[_SLOT] = transaction_id


def transaction_of(data: dict[str, Any]) -> Transaction | None:
    """The transaction of LiteLLM's `data`. Where LiteLLM keeps a client waiting with pings it tells of a failure in
    another context than the one that asked, in which `current` is unset."""
    found = current.get()
    bucket = _bucket_of(data) if found is None else None
    return found if bucket is None else _running.get(str(bucket.get(_SLOT)))


def _bucket_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """LiteLLM's own metadata; on messages and Responses `metadata` is what the client sends to the provider."""
    held = (data.get("litellm_metadata"), data.get("metadata"))
    return next((cast(dict[str, Any], one) for one in held if isinstance(one, dict)), None)


current: ContextVar[Transaction | None] = ContextVar("luthien_transaction", default=None)
"""The transaction that the running hook belongs to; None before anyone was asked."""
