"""Every error that this package raises, in one tree.

LuthienError
+-- ConfigError            a setting is wrong: the proxy must not start (also a RuntimeError)
+-- PolicyError            a policy did what it must not
|   +-- PolicyTimeoutError     a hook ran past its deadline without a keepalive()
|   +-- JudgeError             a model that a policy asked gave no answer to rely on
+-- PolicyBlockedError     a policy refuses: raised by policies, on purpose
+-- StreamClosedError      something was sent after the stream's end
|   +-- QueueFullError         the client did not read for too long
+-- WireError              a provider sent what cannot be understood
"""


class LuthienError(Exception):
    """The root of the tree."""


class ConfigError(LuthienError, RuntimeError):
    """A setting is wrong.

    A `RuntimeError`, because LiteLLM takes a `ValueError` or `TypeError` (pydantic's errors are
    such) from a guardrail as a reason to start without it.
    """


class PolicyError(LuthienError):
    """A policy did what it must not: it raised, or returned something that is no answer."""


class PolicyTimeoutError(PolicyError):
    """A hook ran past its deadline without calling `keepalive()`."""


class JudgeError(PolicyError):
    """A model that a policy asked gave no answer to rely on: it is missing, cut off, or not as asked."""


class PolicyBlockedError(LuthienError):
    """Raised by a policy to refuse a request, or to end an answer.

    `message` is what the client is told. `reason` is what the operator reads; it never leaves the
    proxy, because an agent that learns why it was stopped learns how to get round.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class StreamClosedError(LuthienError):
    """Something was sent after the stream's end."""


class QueueFullError(StreamClosedError):
    """The client did not read for so long that the stream was given up."""


class WireError(LuthienError):
    """A provider sent what cannot be understood, so no policy could have judged it."""
