"""The mark by which `luthien-hooks doctor` knows that a request and its answer went through the plugin.

A request whose header `x-luthien-doctor` carries a nonce is a probe. The policy judges it as any
other, and the provider is called; but its answer is thrown away, and the client gets the proof in
its place. So the header opens nothing: who sends it gets less than without it, the proof instead of
a model's answer, or instead of what the policy answered.
"""

import re

HEADER = "x-luthien-doctor"
_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}")


def is_nonce(value: object) -> bool:
    """Whether `value` marks a probe; anything else in the header is ignored."""
    return isinstance(value, str) and _NONCE.fullmatch(value) is not None


def governed(nonce: str) -> str:
    """In place of a model's answer: what delivers it is the hook that governs answers."""
    return f"luthien governs this answer ({nonce})"


def refused(nonce: str) -> str:
    """In place of the policy's own answer to the request: of the route's answers this proves nothing."""
    return f"luthien's policy lets no model answer this ({nonce})"
