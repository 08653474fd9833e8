"""Where the package's log lines go in a LiteLLM process, whose own logging leaves them without time and level."""

import logging
import os
from typing import TextIO

import litellm
from litellm._logging import JsonFormatter, redact_secrets

from luthien_litellm_hooks.log_lines import debug_logger, logger

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def show_log_lines() -> None:
    """Gives the package's logger a handler and a level, unless the operator's logging config has done so.

    The level is INFO, or what `LITELLM_LOG` says. Calling it again changes nothing.
    """
    for each in (logger, debug_logger):
        if not any(isinstance(known, _NoFields) for known in each.filters):
            each.addFilter(_NoFields())
    if logger.level == logging.NOTSET:
        told = os.environ.get("LITELLM_LOG", "").upper()
        logger.setLevel(logging.getLevelNamesMapping().get(told, logging.INFO))
    if not logger.handlers:
        logger.addHandler(_Handler())


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error what the root logger has no handler for.

    With `json_logs` LiteLLM gives the root one, in some processes before it loads us and in others after.
    """

    def __init__(self) -> None:
        super().__init__()
        self._plain, self._json = logging.Formatter(_FORMAT), JsonFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return self._json.format(record) if _is_json() else redact_secrets(self._plain.format(record))


class _NoFields(logging.Filter):
    """Keeps LiteLLM's JSON formatter from making fields of the line out of a text that looks like a dict."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _is_json():
            record.msg = str(record.msg).replace("{", "\\x7b")
        return True


def _is_json() -> bool:
    return bool(getattr(litellm, "json_logs", False))
