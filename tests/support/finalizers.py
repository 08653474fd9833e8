"""What a proxy of the tests loads on Python 3.11, so that a flaw of Python's does not end it in the midst of a test.

LiteLLM's `CustomStreamWrapper.__del__` sets context variables, to restore the ids in its log lines. Python calls it
from the garbage collector, and before 3.12 that may run within another `ContextVar.set`, whose data it then frees: a
segmentation fault, seldom (https://github.com/python/cpython/issues/148891).
"""

from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper


def remove() -> None:
    if "__del__" in vars(CustomStreamWrapper):
        del CustomStreamWrapper.__del__
