"""Every error that this package raises, in one tree.

LuthienError
+-- ConfigError            a setting is wrong: the proxy must not start (also a RuntimeError)
+-- PolicyError            a policy did what it must not
|   +-- PolicyTimeoutError     a hook ran past its deadline without a keepalive()
|   +-- JudgeError             a model that a policy asked gave no answer to rely on
+-- PolicyBlockedError     a policy refuses: raised by policies, on purpose
+-- StreamClosedError      something was sent after the stream's end
|   +-- QueueFullError         the client did not read for too long
+-- LimitExceededError     an answer, or all that is held of answers, is too large
+-- WireError              a provider sent what cannot be understood
"""

from collections.abc import Sequence


class LuthienError(Exception):
    """The root of the tree."""


class ConfigError(LuthienError, RuntimeError):
    """A setting is wrong.

    A `RuntimeError`, because LiteLLM takes a `ValueError` or `TypeError` (pydantic's errors are
    such) from a guardrail as a reason to start without it. `problems` has each key that is wrong, and
    what is wrong with it; where it is no key, one problem under the key "".
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (("", message),)

    @classmethod
    def at(cls, *problems: tuple[str, str]) -> "ConfigError":
        """One or several keys are wrong."""
        return cls("; ".join(f"{key}: {what}" if key else what for key, what in problems), problems)


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


class LimitExceededError(LuthienError):
    """One of the `limits` of the settings is reached, which the message names."""


class WireError(LuthienError):
    """A provider sent what cannot be understood, so no policy could have judged it."""
