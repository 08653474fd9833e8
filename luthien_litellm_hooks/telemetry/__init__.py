"""What a policy may tell the operator about a transaction, apart from its decisions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping


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
    def add_span_attribute(self, key: str, value: str | bool | int | float) -> None:
        """Sets an attribute of the transaction's span."""

    @abstractmethod
    def add_span_event(self, name: str, attributes: Mapping[str, str | bool | int | float] | None = None) -> None:
        """Adds an event to the transaction's span."""


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

    def add_span_attribute(self, key: str, value: str | bool | int | float) -> None:
        return None

    def add_span_event(self, name: str, attributes: Mapping[str, str | bool | int | float] | None = None) -> None:
        return None
