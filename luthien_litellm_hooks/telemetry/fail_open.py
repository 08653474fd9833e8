"""What only observes must never be in the way."""

from types import TracebackType

from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.telemetry.metrics import Metrics
from luthien_litellm_hooks.telemetry.names import OBSERVER_FAILURES


class FailOpen:
    """As a `with` block: an exception in it is counted, and ends there. Each kind is logged once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._logged: set[type[BaseException]] = set()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        self._metrics.record(OBSERVER_FAILURES.name, 1)
        if kind not in self._logged:
            self._logged.add(kind)
            logger.error("telemetry failed; answers go on, and this is not logged again", exc_info=error)
        return True
