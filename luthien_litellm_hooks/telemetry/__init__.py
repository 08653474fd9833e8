"""What a policy may tell the operator about a transaction, apart from its decisions."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from luthien_litellm_hooks.events import StreamBlock

AttributeValue = str | bool | int | float | Sequence[str]


class HookDecision(Protocol):
    """What is told of a policy's decision: `policy.context.Decision` is one."""

    @property
    def policy(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def block(self) -> StreamBlock | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def score(self) -> float | None: ...


class ObservabilityContext(ABC):
    """Events, metrics and span attributes of one transaction. No method raises, none blocks."""

    @property
    @abstractmethod
    def transaction_id(self) -> str:
        """The transaction that all of it belongs to."""

    @abstractmethod
    async def emit_event(self, event_type: str, data: Mapping[str, object]) -> None:
        """Publishes an event; the transaction's id and the time are added."""

    @abstractmethod
    def record_metric(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Adds to a metric. Labels must be few and bounded: never an id."""

    @abstractmethod
    def add_span_attribute(self, key: str, value: AttributeValue) -> None:
        """Sets an attribute of the transaction's span."""

    @abstractmethod
    def add_span_event(self, name: str, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        """Adds an event to the transaction's span."""

    def hook_ran(
        self, policy: str, hook: str, *, started_ns: int, ended_ns: int, decisions: Iterable[HookDecision] = ()
    ) -> None:
        """The engine tells of a hook that ran, with what it decided. The times are nanoseconds since
        the epoch. Of a delta hook only calls that decided are told; what the others took is added up
        in the metric `luthien_policy_seconds`."""
        return

    def end(
        self,
        outcome: str,
        *,
        attributes: Mapping[str, AttributeValue | None] | None = None,
        added_latency_s: float | None = None,
    ) -> None:
        """The engine tells that the transaction is over."""
        return


class NoOpObservabilityContext(ObservabilityContext):
    """Tells nobody anything."""

    def __init__(self, transaction_id: str) -> None:
        self._transaction_id = transaction_id

    @property
    def transaction_id(self) -> str:
        return self._transaction_id

    async def emit_event(self, event_type: str, data: Mapping[str, object]) -> None:
        return None

    def record_metric(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        return None

    def add_span_attribute(self, key: str, value: AttributeValue) -> None:
        return None

    def add_span_event(self, name: str, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        return None
