"""Observability of one transaction: events, metrics and span attributes, apart from decisions."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from luthien_litellm_hooks.wire.events import StreamBlock

AttributeValue = str | bool | int | float | Sequence[str]


class HookDecision(Protocol):
    """Decision of a policy, as far as telemetry uses it: `recording.decision.Decision` is one."""

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
    @property
    def is_vote(self) -> bool: ...


class Watcher(Protocol):
    """Observer of running transactions, in the event loop of the process. Its methods return at once."""

    def happened(self, transaction_id: str, event_type: str, data: Mapping[str, object]) -> None:
        """Notes an event, with the data that `ObservabilityContext.emit_event` got."""
        ...

    def decided(self, transaction_id: str, decisions: Sequence[HookDecision]) -> None:
        """Notes decisions as a hook makes them."""
        ...


class ObservabilityContext(ABC):
    """Events, metrics and span attributes of one transaction. No method raises or blocks."""

    @property
    @abstractmethod
    def transaction_id(self) -> str:
        """The transaction's id."""

    @property
    def has_listeners(self) -> bool:
        """Someone gets the data of events."""
        return True

    @abstractmethod
    async def emit_event(self, event_type: str, data: Mapping[str, object]) -> None:
        """Publishes an event, with the transaction's id and the time."""

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
        """Records a hook's call and its decisions; called by the engine. Times are nanoseconds since the epoch.

        Of a delta hook only deciding calls are recorded. The time of the others is summed in `luthien_policy_seconds`.
        """
        return

    def end(
        self,
        outcome: str,
        *,
        attributes: Mapping[str, AttributeValue | None] | None = None,
        added_latency_s: float | None = None,
    ) -> None:
        """Ends the transaction; called by the engine."""
        return


class NoOpObservabilityContext(ObservabilityContext):
    """Context that records nothing."""

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
