"""A policy for tests that lets nothing through."""

from luthien_litellm_hooks import PolicyBlockedError, SimplePolicy


class RefusesAll(SimplePolicy):
    """Refuses every request."""

    async def on_request_simple(self, request: str) -> str:
        raise PolicyBlockedError("This request is refused.", reason="the operator's reason")
