"""Policies that are hard to build."""

import os
import sys
import time
from pathlib import Path

from luthien_litellm_hooks import PolicyConfig, SimplePolicy


class BuiltWhenFlagged(SimplePolicy):
    """Says that it is being built by a file beside the one named FLAG, for which it waits."""

    def __init__(self, config: PolicyConfig) -> None:
        flag = Path(os.environ["FLAG"])
        flag.with_suffix(".wanted").touch()
        while not flag.exists():
            time.sleep(0.01)


class EndsTheProcess(SimplePolicy):
    """Would end a process that built it without care."""

    def __init__(self, config: PolicyConfig) -> None:
        sys.exit("secret of the policy")
