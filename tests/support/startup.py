"""What each proxy of the tests does at its start, for LiteLLM alone would make a test slow, or end it."""

import os
import random
import sys

from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from litellm.proxy import proxy_server

_WRITE_S = 0.2


class _Least(random.Random):
    def randint(self, a: int, b: int) -> int:
        return a


def prepare() -> None:
    """Has LiteLLM write spend logs every moment, or just as often as a test says.

    Its least is a second, to which it adds up to five by chance. On Python 3.11 `CustomStreamWrapper.__del__` is
    removed. It sets context variables, to restore the ids in log lines, and Python calls it from the garbage
    collector. Before 3.12 that may run within another `ContextVar.set`, whose data it then frees: a segmentation fault,
    seldom (https://github.com/python/cpython/issues/148891).
    """
    proxy_server.random = _Least()
    if "PROXY_BATCH_WRITE_AT" not in os.environ:
        proxy_server.proxy_batch_write_at = _WRITE_S
    if sys.version_info < (3, 12) and "__del__" in vars(CustomStreamWrapper):
        del CustomStreamWrapper.__del__
