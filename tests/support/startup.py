"""What each proxy of the tests does at its start, for LiteLLM alone would make a test slow, or end it."""

import gc
import random
import sys
from typing import Any

from litellm import constants
from litellm.litellm_core_utils import core_helpers
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from litellm.proxy import proxy_server

_WRITE_S = 0.2
_NEVER_S = 3600


_add = core_helpers.add_missing_spend_metadata_to_litellm_metadata


def _add_from_copy(litellm_metadata: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    return _add(litellm_metadata, metadata.copy())


class _Least(random.Random):
    def randint(self, a: int, b: int) -> int:
        return a


def prepare() -> None:
    """Has LiteLLM write spend logs every moment, and spares the million objects that it has collections of garbage.

    Its least is a second, to which it adds up to five by chance. On Python 3.11 `CustomStreamWrapper.__del__` is
    removed. It sets context variables, to restore the ids in log lines, and Python calls it from the garbage
    collector. Before 3.12 that may run within another `ContextVar.set`, whose data it then frees: a segmentation fault,
    seldom (https://github.com/python/cpython/issues/148891).

    The loop reads metadata of a request that LiteLLM's logging thread may change meanwhile. On a machine with much to
    do, "dictionary changed size during iteration" then is the answer (https://github.com/BerriAI/litellm/pull/39869
    ends it elsewhere). Here it reads a copy.
    """
    gc.freeze()
    core_helpers.add_missing_spend_metadata_to_litellm_metadata = _add_from_copy
    proxy_server.random = _Least()
    proxy_server.proxy_batch_write_at = _WRITE_S
    if sys.version_info < (3, 12) and "__del__" in vars(CustomStreamWrapper):
        del CustomStreamWrapper.__del__


def write_never() -> None:
    """Has LiteLLM write no spend logs before it ends. To be called after `prepare`."""
    proxy_server.proxy_batch_write_at = constants.SPEND_LOG_QUEUE_POLL_INTERVAL = _NEVER_S
