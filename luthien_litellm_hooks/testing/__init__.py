"""For tests and demos: runs a policy without a proxy, and a provider by script that needs no key and no network.

Each name is imported when it is first asked for: `run_policy` brings LiteLLM along, the others do not.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthien_litellm_hooks.testing.answers import Answer as ScriptedAnswer
    from luthien_litellm_hooks.testing.answers import Call, Cut, Gate, Say, Think, Wait
    from luthien_litellm_hooks.testing.iterators import ChunkedTextIterator, StreamingBuffer
    from luthien_litellm_hooks.testing.provider import ScriptedProvider
    from luthien_litellm_hooks.testing.run import Outcome, run_policy
    from luthien_litellm_hooks.testing.serving import serve

__all__ = [
    "Call",
    "ChunkedTextIterator",
    "Cut",
    "Gate",
    "Outcome",
    "Say",
    "ScriptedAnswer",
    "ScriptedProvider",
    "StreamingBuffer",
    "Think",
    "Wait",
    "run_policy",
    "serve",
]

_HOMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("Call", "Cut", "Gate", "Say", "Think", "Wait"), "answers"),
        **dict.fromkeys(("ChunkedTextIterator", "StreamingBuffer"), "iterators"),
        **dict.fromkeys(("Outcome", "run_policy"), "run"),
        "ScriptedAnswer": "answers:Answer",
        "ScriptedProvider": "provider",
        "serve": "serving",
    }
)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own_name = _HOMES[name].partition(":")
    globals()[name] = found = getattr(import_module(f"{__name__}.{module}"), own_name or name)
    return found
