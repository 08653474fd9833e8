"""One call of a hook: its deadline, its failure, its timing. Every hook of every policy runs through `call_hook`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from luthien_litellm_hooks.engine.composition import HoldClock, OnPolicyError
from luthien_litellm_hooks.errors import PolicyBlockedError, PolicyError, PolicyTimeoutError
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS, take_undecided
from luthien_litellm_hooks.policy.notices import NOTICE_MARK
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.telemetry.log_lines import error_text, logger

STOP_GRACE_S = 2.0
"""Seconds for a hook to stop after its deadline, before it is abandoned."""

T = TypeVar("T")
OnAbandoned = Callable[[PolicyTimeoutError], None]


def is_not_a_refusal(error: Exception) -> bool:
    """Holds for a failure of the policy: `PolicyBlockedError` is its decision."""
    return not isinstance(error, PolicyBlockedError)


async def call_hook(
    ctx: PolicyContext,
    hook: str,
    run: Callable[[], Awaitable[T]],
    on_policy_error: OnPolicyError,
    *,
    fallback: T,
    is_failure: Callable[[Exception], bool] = is_not_a_refusal,
    unreported_ns: dict[str, int] | None = None,
) -> T:
    """Runs a hook by `run`, under its deadline, and returns the result.

    A failure is recorded, and logged for the operator. With `on_policy_error: pass` the result then is `fallback`,
    else this raises `PolicyError`. Errors other than an `is_failure` pass through. `report_hook` tells
    observers.
    """
    ctx.hook_began = time.monotonic()
    started_ns, decided = time.time_ns(), len(ctx.decisions)
    try:
        return await run()
    except Exception as error:
        if not is_failure(error):
            raise
        record_failure(ctx, ctx.policy_name, on_policy_error, hook, error)
        if on_policy_error == "block":
            raise PolicyError(f"{hook} failed") from error
        return fallback
    finally:
        report_hook(ctx, hook, started_ns, decided, unreported_ns)


def report_hook(
    ctx: PolicyContext, hook: str, started_ns: int, decided: int, unreported_ns: dict[str, int] | None = None
) -> None:
    """Reports a hook that ends now to observers, with the policy's decisions after the first `decided`.

    With `unreported_ns` a call without a decision only adds to these sums: hooks for deltas are called too
    often for a report each.
    """
    ended_ns, decisions = time.time_ns(), ctx.decisions
    if unreported_ns is not None and len(decisions) == decided:
        unreported_ns[hook] = unreported_ns.get(hook, 0) + ended_ns - started_ns
        return
    name = ctx.policy_name
    made = [decision for decision in decisions[decided:] if decision.policy == name]
    ctx.observability.hook_ran(name, hook, started_ns=started_ns, ended_ns=ended_ns, decisions=made)


# Failures


def failure_notice(ctx: PolicyContext) -> str:
    """Returns the client's notice for a failure of ours."""
    return f"{NOTICE_MARK} This answer was stopped because a policy check failed (transaction {ctx.transaction_id})."


def stalled_notice(ctx: PolicyContext) -> str:
    """Returns the notice for a client in case it reads again after it was given up."""
    return f"{NOTICE_MARK} This answer was stopped because it was not read (transaction {ctx.transaction_id})."


def record_refusal(ctx: PolicyContext, refusal: PolicyBlockedError) -> None:
    """Records a policy's refusal."""
    ctx.decide("block", reason=refusal.reason, message=refusal.message)


def record_failure(ctx: PolicyContext, policy: str, on_policy_error: str, hook: str, error: Exception) -> None:
    """Records and logs a failure of a policy, for the operator alone."""
    record_error(ctx, hook, error)
    logger.error(
        "transaction %s: policy %s failed in %s (on_policy_error: %s)",
        ctx.transaction_id,
        policy,
        hook,
        on_policy_error,
        exc_info=error,
    )


def record_error(ctx: PolicyContext, where: str, error: Exception) -> None:
    """Records a failure of ours."""
    kind = type(error).__name__
    reason, evidence = f"{where}: {kind}", error_text(error)
    ctx.decisions.append(
        Decision(
            ctx.policy_name,
            "error",
            reason=reason,
            evidence=evidence,
            error=kind,
            is_vote=ctx.is_voter,
            spent=take_undecided(ctx.scratchpad),
        )
    )


# The deadline


def is_cancelled() -> bool:
    """Holds if this task itself is cancelled, rather than something awaited in it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class HookDeadline:
    """Runs hooks one after the other, each for at most `timeout_s` seconds since it began or last
    called `keepalive()`. All hooks of one transaction share `clock`, and get `max_hold_s` seconds together.

    Only the policies' own time counts: the engine awaits the provider outside, and the wait for a slow
    client is `paused()`.
    """

    def __init__(
        self,
        timeout_s: float,
        clock: HoldClock | None = None,
        max_hold_s: float = DEFAULT_LIMITS.max_hold_s,
    ) -> None:
        self._timeout_s = timeout_s
        self._clock = clock or HoldClock()
        self._max_hold_s = max_hold_s
        self._scope: asyncio.Timeout | None = None
        self._on_abandoned: OnAbandoned | None = None  # only while a hook waits: its object holds this deadline
        self._abandon_timer: asyncio.TimerHandle | None = None
        self._is_paused = self._is_counted = False
        self._moved_at = time.monotonic()

    async def run(self, hook: Awaitable[T], on_abandoned: OnAbandoned | None = None) -> T:
        """Runs `hook` in this task and returns its result.

        Raises `PolicyTimeoutError` when it takes too long, even if the hook swallowed the cancellation;
        `PolicyError` if its awaitable was cancelled; `CancelledError` if this task was cancelled
        and the hook swallowed it. Calls `on_abandoned` when the hook goes on though it was cancelled.
        A hook that never waits costs no more than a call.
        """
        self._moved_at = time.monotonic()
        try:
            if not hasattr(hook, "__await__"):
                raise PolicyError(f"a hook must be `async def`; this one returned a {type(hook).__name__}")
            steps = hook.__await__()
            try:
                waits_for: object = next(steps)
            except StopIteration as done:
                return cast(T, done.value)
            was_cancelled = is_cancelled()  # before on_stream_closed, when the client has left
            try:
                return await self._finish(_Rest(steps, waits_for), on_abandoned)
            finally:
                if is_cancelled() and not was_cancelled:
                    raise asyncio.CancelledError
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise PolicyError("something that the hook awaited was cancelled") from error

    async def run_in_task(self, hook: Awaitable[T]) -> T:
        """Runs `hook` as `run` does, but in a task of its own, and abandons the task if it cannot be stopped."""
        abandoned: asyncio.Future[PolicyTimeoutError] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(self.run(hook, abandoned.set_result))
        running.add_done_callback(_retrieve)
        try:
            await asyncio.wait((running, abandoned), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if not running.done():
            raise abandoned.result()
        if running.cancelled():
            raise PolicyError("something that the hook awaited was cancelled")
        return running.result()

    async def _finish(self, rest: Awaitable[T], on_abandoned: OnAbandoned | None) -> T:
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scope, self._on_abandoned = scope, on_abandoned
                self._count()
                self._reschedule()
                result = await rest
        except TimeoutError:
            if not scope.expired():
                raise  # the hook's own
            raise self._error() from None
        finally:
            self._scope = self._on_abandoned = None
            self._count()
            self._watch(None)
            is_expired = scope.expired()
            del scope  # it holds the task, and that a cancellation whose traceback holds this frame
        if is_expired:
            raise self._error()
        return result

    @property
    def is_running(self) -> bool:
        """True while a hook waits for something of its own."""
        return self._is_counted

    def keepalive(self) -> None:
        """Restarts the running hook's time."""
        self._moved_at = time.monotonic()
        self._reschedule()

    def time_since_keepalive(self) -> float:
        """Returns seconds since the deadline last moved."""
        return time.monotonic() - self._moved_at

    @contextmanager
    def paused(self) -> Generator[None]:
        """Stops the time, and restarts it at the end."""
        self._is_paused = True
        self._count()
        self._reschedule()
        try:
            yield
        finally:
            self._is_paused = False
            self._count()
            self.keepalive()

    def _count(self) -> None:
        """Runs the transaction's clock while a hook waits and is not paused."""
        is_counted = self._scope is not None and not self._is_paused
        if is_counted != self._is_counted:
            self._is_counted = is_counted
            (self._clock.start if is_counted else self._clock.stop)()

    def _reschedule(self) -> None:
        if self._scope is None or self._scope.expired():
            return
        when = None
        if not self._is_paused:
            left = min(self._timeout_s, self._max_hold_s - self._clock.seconds)
            when = asyncio.get_running_loop().time() + max(left, 0)
        self._scope.reschedule(when)
        self._watch(when)

    def _watch(self, when: float | None) -> None:
        if self._abandon_timer is not None:
            self._abandon_timer.cancel()
            self._abandon_timer = None
        if when is not None and self._on_abandoned is not None:
            self._abandon_timer = asyncio.get_running_loop().call_at(when + STOP_GRACE_S, self._report_abandoned)

    def _report_abandoned(self) -> None:
        if self._on_abandoned is not None:
            self._on_abandoned(self._error())

    def _error(self) -> PolicyTimeoutError:
        if self._clock.seconds >= self._max_hold_s:
            return PolicyTimeoutError(f"the policies took more than limits.max_hold_s: {self._max_hold_s:g} s in all")
        return PolicyTimeoutError(f"no keepalive() for {self._timeout_s:g} s")


class _Rest(Generator[object, Any, T]):
    """Remainder of an awaitable after its first step yielded `waits_for`."""

    def __init__(self, steps: Generator[Any, Any, T], waits_for: object) -> None:
        self._steps = steps
        self._first: tuple[object, ...] = (waits_for,)

    def __await__(self) -> Generator[object, Any, T]:
        return self

    def send(self, value: Any, /) -> object:
        if self._first:
            (waits_for,), self._first = self._first, ()
            return waits_for
        return self._steps.send(value)

    def throw(self, *error: Any) -> object:
        try:
            return self._steps.throw(*error)
        finally:
            del error  # its traceback holds this frame


def _retrieve(task: asyncio.Task[T]) -> None:
    """Marks the error of a possibly abandoned task as seen."""
    if not task.cancelled():
        task.exception()
