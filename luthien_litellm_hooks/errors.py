"""Errors of this package, in one tree.

LuthienError
+-- ConfigError            wrong setting: the proxy must not start (also a RuntimeError)
+-- PolicyError            fault of a policy
|   +-- PolicyTimeoutError     hook past its deadline without a keepalive()
|   +-- JudgeError             unusable response of a judge model
+-- PolicyBlockedError     refusal: raised by policies, on purpose
+-- StreamClosedError      event sent after the stream's end
|   +-- QueueFullError         client without a read for too long
+-- LimitExceededError     response, or held events of all, too large
+-- WireError              unreadable item from a provider
+-- NotReplayableError     recorded response that a policy cannot judge
+-- StateError             shared state that cannot be read or written
"""

from collections.abc import Sequence


class LuthienError(Exception):
    """Root of the tree."""


class ConfigError(LuthienError, RuntimeError):
    """Wrong setting.

    It is a `RuntimeError`, because LiteLLM starts without a guardrail after a `ValueError` or `TypeError`
    (pydantic's errors are such). `problems` has each wrong key with its fault; a fault of no single key has the
    key "".
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (("", message),)

    @classmethod
    def at(cls, *problems: tuple[str, str]) -> "ConfigError":
        """Returns an error about one or several keys."""
        return cls("; ".join(f"{key}: {fault}" if key else fault for key, fault in problems), problems)


class PolicyError(LuthienError):
    """Fault of a policy: it raised, or returned an object of another type than its hook promises."""


class PolicyTimeoutError(PolicyError):
    """Hook past its deadline without a call of `keepalive()`."""


class JudgeError(PolicyError):
    """Unusable response of a judge model: missing, cut off, or in another form than requested."""


class PolicyBlockedError(LuthienError):
    """Refusal of a request, or end of a response, raised by a policy.

    The client gets `message`. The operator gets `reason`; it never leaves the proxy, because an agent that
    learns the reason learns to get round it.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class StreamClosedError(LuthienError):
    """Event sent after the stream's end."""


class QueueFullError(StreamClosedError):
    """Stream given up because the client did not read for too long."""


class LimitExceededError(LuthienError):
    """Excess over one of the `limits` of the settings, named in the message."""


class WireError(LuthienError):
    """Unreadable item from a provider, so no policy can judge it."""


class NotReplayableError(LuthienError):
    """Recorded response that a policy cannot judge; the message says why."""


class StateError(LuthienError):
    """Shared state that cannot be read or written."""
