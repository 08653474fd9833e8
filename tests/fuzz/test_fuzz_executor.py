"""The executor, on every wire, under policies, providers and clients that do anything at any time.

What must hold whatever they do: nothing that a policy withheld is delivered, and nothing twice; what
nobody touched leaves as it came; a client can read all that it gets; nothing fails but with an error of
ours or the provider's own; when it is over no task is left, every policy was told once, and the record
is closed once.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from luthien_litellm_hooks import LuthienError, PolicyBlockedError, PolicyContext, PolicyExecutor, Request, WireError
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, Parallel, Serial, Strategy
from luthien_litellm_hooks.engine.executor import OnBlock
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policy.request import Answer as OwnAnswer
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder, Outcome
from luthien_litellm_hooks.testing.answers import Answer
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.fuzzed_policies import (
    DELTA_HOOKS,
    HARMLESS,
    HOOK_SECONDS,
    SECRET,
    Account,
    Makings,
    Script,
    Scripted,
    scripted,
    scripts,
)
from tests.support.fuzzed_wires import CLIENTS, text_of
from tests.support.fuzzing import Provider, StandingClock, answers, budget, marks_in

STRATEGIES: Sequence[Strategy] = ("any_blocks", "majority", "unanimous", "first")
MEMBERS = st.tuples(scripts(), st.sampled_from(["block", "pass"]))
STAGES = st.lists(
    st.tuples(st.sampled_from([None, None, *STRATEGIES]), st.lists(MEMBERS, min_size=1, max_size=3)),
    min_size=1,
    max_size=2,
)
"""Stages in a row: of one policy (the first member), or a panel of several."""
Stages = Sequence[tuple[Strategy | None, Sequence[tuple[Script, Any]]]]
FAULTS = {
    "error": lambda: RuntimeError("the provider's own"),
    "cancelled": lambda: asyncio.CancelledError("the provider's own"),
    "timeout": lambda: TimeoutError("the provider's own"),
}


GARBAGE = (object(), None, 1, b"data: {\n\n", b'data: {"type": []}\n\n', b"data: \xff\n\n")
PUT_SECONDS = 30.0
RARELY = st.sampled_from([False] * 7 + [True])


class CountingRecorder(DefaultTransactionRecorder):
    def __init__(self) -> None:
        super().__init__()
        self.endings: list[Outcome] = []

    async def finalize_streaming(self, outcome: Outcome) -> None:
        self.endings.append(outcome)
        await super().finalize_streaming(outcome)

    async def finalize_non_streaming(self, outcome: Outcome) -> None:
        self.endings.append(outcome)
        await super().finalize_non_streaming(outcome)


class Panel(list[Account]):
    """The accounts of the policies of one stage that are heard."""

    def lets(self, mark: str) -> bool:
        return any(account.lets(mark) for account in self)


class Run:
    """One answer on its way: what came, what left, and whether that was right."""

    def __init__(self, route: RouteName, answer: Answer, stages: Stages, **options: Any) -> None:
        self.route: RouteName = route
        self.loop = StandingClock()
        self.makings = Makings()
        self.policies: list[Scripted] = []
        self.heard: list[Panel] = []
        self.recorder = CountingRecorder()
        self.ctx = PolicyContext("transaction-1", Request({"model": "m"}), recorder=self.recorder)
        self.answer = answer
        self.executor = PolicyExecutor(Serial([self._stage(*stage) for stage in stages]), **options)
        self.adapter = adapter_for(ROUTES[route].call_type, self.ctx.request)
        self._ping = self.adapter.ping
        self.adapter.ping = self._noted_ping
        self._pings: list[object] = []
        self.delivered: list[Any] = []
        self.ending: BaseException | None = None

    def _stage(self, strategy: Strategy | None, members: Sequence[tuple[Script, Any]]) -> Composition:
        chosen = members[:1] if strategy is None else members
        policies = [scripted(script, self.makings, on_error) for script, on_error in chosen]
        self.policies += policies
        built = [
            ConfiguredPolicy(policy, f"policy {number}", HOOK_SECONDS, policy.account.on_policy_error)
            for number, policy in enumerate(policies)
        ]
        self.heard.append(Panel(policy.account for policy in (policies[:1] if strategy == "first" else policies)))
        return built[0] if len(built) == 1 else Parallel(built, strategy or "first")

    def _noted_ping(self) -> list[object]:
        made = list(self._ping())
        self._pings += made
        return made

    def deliver(self, item: object) -> None:
        """Takes an item as the client does. A ping says nothing, and may come between any two."""
        if not any(item is ping for ping in self._pings):
            self.delivered.append(item)
            self.check_delivered()

    def items(self) -> list[object]:
        """What the provider has to say."""

        async def read() -> list[object]:
            stream = ROUTES[self.route].stream(self.answer, {"model": "m"})
            return [item async for item in stream]

        return self.loop.run_until_complete(read())

    def workers(self) -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks(self.loop) if task.get_name().startswith("luthien-")]

    def may_leave(self, mark: str) -> bool:
        """Whether every policy that saw `mark` let it out."""
        if self.ctx.answer is not None:
            return mark in self.ctx.answer.text
        made_by = [number for number, panel in enumerate(self.heard) if any(mark in a.made for a in panel)]
        return all(panel.lets(mark) for panel in self.heard[made_by[0] if made_by else 0 :])

    def check_delivered(self) -> None:
        """Nothing that was withheld has left, and nothing twice."""
        said = "".join(CLIENTS[self.route].piece(item) for item in self.delivered)
        raw = "".join(map(text_of, self.delivered))
        assert SECRET not in raw, "what only the operator may know"
        leaked = [mark for mark in marks_in(raw) if not self.may_leave(mark)]
        assert not leaked, f"withheld, and delivered: {leaked}"
        twice = [mark for mark, count in Counter(marks_in(said)).items() if count > 1]
        assert not twice, f"delivered twice: {twice}"

    def close(self) -> None:
        """What is left when all is over, and what must not be."""
        for task in self.makings.left_behind:
            task.cancel()
        self.loop.settle()
        assert not self.workers(), "a worker is left"
        assert [task for task in asyncio.all_tasks(self.loop) if not task.done()] == []
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        assert self.loop.faults == []
        closed = 0 if self.ctx.answer is not None else 1
        assert [policy.account.closed for policy in self.policies] == [closed] * len(self.policies)
        assert self.recorder.endings  # of which the first counts


class Streaming(RuleBasedStateMachine):
    """A streamed answer."""

    run: Run

    @initialize(
        data=st.data(),
        route=st.sampled_from(sorted(ROUTES)),
        stages=STAGES,
        max_items=st.sampled_from([1, 2, 10_000]),
        is_answered=st.sampled_from([False] * 9 + [True]),
    )
    def begin(self, data: Any, route: RouteName, stages: Stages, max_items: int, is_answered: bool) -> None:
        self.run = Run(route, data.draw(answers(route)), stages, max_items=max_items, put_timeout_s=PUT_SECONDS)
        self.provider = Provider(self.run.items())
        self.promised = list(self.provider.coming)
        self.provider_error: BaseException | None = None
        self.is_faulty = False
        self.has_begun = self.has_left = self.was_waiting = False
        self.waited_s = 0.0  # since the client last read
        self.is_answered = is_answered
        if is_answered:
            self.run.ctx.answer = OwnAnswer("Zt8000z")
        self.stream: AsyncGenerator[object, None] = self.run.executor.run(self.provider, self.run.adapter, self.run.ctx)
        self.read: asyncio.Task[Any] | None = None

    @property
    def is_over(self) -> bool:
        return self.run.ending is not None

    @rule(count=st.integers(1, 6))
    def the_provider_gives(self, count: int) -> None:
        self.provider.give(count)
        self.run.loop.settle()

    @precondition(lambda self: not self.is_faulty)
    @rule(kind=st.sampled_from([None, *FAULTS]), is_wanted=RARELY)
    def the_provider_ends(self, kind: str | None, is_wanted: bool) -> None:
        if not is_wanted:
            return
        self.is_faulty = True
        self.provider_error = FAULTS[kind]() if kind else None
        self.provider.end(self.provider_error)
        self.run.loop.settle()

    @precondition(lambda self: not self.is_faulty)
    @rule(garbage=st.sampled_from(GARBAGE), is_wanted=RARELY)
    def the_provider_brings_garbage(self, garbage: object, is_wanted: bool) -> None:
        if not is_wanted:
            return
        self.is_faulty = True
        self.provider.insert(garbage)
        self.run.loop.settle()

    @precondition(lambda self: self.run.makings.waiting)
    @rule()
    def the_gate_opens(self) -> None:
        self.run.makings.gate.set()
        self.run.loop.settle()
        self.run.makings.gate.clear()

    @rule(seconds=st.sampled_from([1, HOOK_SECONDS, 31]))
    def time_passes(self, seconds: float) -> None:
        self._take()
        if self.read is None and self.waited_s < PUT_SECONDS:
            self.waited_s += seconds
        self.run.loop.pass_time(seconds)
        self._take()

    @rule(count=st.integers(1, 6))
    def the_client_reads(self, count: int) -> None:
        for _ in range(count):
            if self.is_over or self.has_left:
                return
            self.has_begun = True
            if self.waited_s < PUT_SECONDS:
                self.waited_s = 0.0
            if self.read is None:
                self.read = self.run.loop.start(_next(self.stream))
            self._take()
            if self.read is not None:
                return

    @precondition(lambda self: self.has_begun and not self.is_over and not self.has_left)
    @rule(is_wanted=RARELY)
    def the_client_leaves(self, is_wanted: bool) -> None:
        self._take()
        if not is_wanted or self.is_over:
            return
        self.has_left = True
        self.was_waiting = self.read is not None
        if self.read is None:
            self.leaving = self.run.loop.start(self.stream.aclose())
        else:
            self.read.cancel()
            self.leaving = self.read
        self.run.loop.settle()

    def _take(self) -> None:
        """What the client has read by now."""
        read = self.read
        if read is None or not read.done() or self.has_left:
            return
        self.read = None
        if read.cancelled():  # which tells no longer what it was cancelled with
            assert isinstance(self.provider_error, asyncio.CancelledError)
            self.run.ending = self.provider_error
        elif (error := read.exception()) is None:
            self.run.deliver(read.result())
        else:
            assert error is self.provider_error or isinstance(error, StopAsyncIteration | LuthienError), error
            self.run.ending = error

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        try:
            if self.has_left:
                self._finish_without_client()
            else:
                self._finish_reading()
            self.run.check_delivered()
            assert self.provider.is_closed, "the provider's stream is left open"
            self.run.close()
            self._check_ending()
        finally:
            self.run.loop.close()

    def _finish_without_client(self) -> None:
        self._let_workers_end(patience_s=60)
        assert self.leaving.done(), "the client's leaving never ends"

    def _finish_reading(self) -> None:
        self.provider.give(len(self.provider.coming))
        self.provider.end(self.provider_error)
        for _ in range(1_000):  # a hook may take three rounds for each piece of an answer
            if self.is_over:
                break
            self.run.makings.gate.set()
            self.run.loop.settle()
            self.the_client_reads(1_000)
            if self.read is not None:
                self.time_passes(HOOK_SECONDS)
        assert self.is_over, "the answer never ends"
        self._let_workers_end(patience_s=1000)  # members that are only heard may still be at work

    def _let_workers_end(self, patience_s: int) -> None:
        while self.run.workers() and patience_s > 0:
            patience_s -= 5
            self.run.loop.pass_time(5)

    def _check_ending(self) -> None:
        outcome = self.run.recorder.endings[0]
        if self.has_left:
            is_finished = self.run.recorder.egress.finish_reason is not None
            assert outcome == "client_disconnected" or (self.was_waiting and is_finished), outcome
            return
        if outcome == "client_disconnected":
            assert self.waited_s >= PUT_SECONDS, "no client lagged so far behind"
            return
        if self.is_faulty and self.run.recorder.egress.finish_reason is None:
            return  # it breaks off, as the provider's does
        accounts = [policy.account for policy in self.run.policies]
        if self.run.ending is self.provider_error:
            # Nobody can tell a provider's own cancellation from the client's.
            is_cancelled = isinstance(self.provider_error, asyncio.CancelledError)
            assert outcome == "provider_error" or is_cancelled, outcome
            return
        if self.run.route == "completions" and isinstance(self.run.ending, WireError):
            return  # a call, for which this wire has no words
        assert isinstance(self.run.ending, StopAsyncIteration), self.run.ending
        if not self._is_as_it_came():
            CLIENTS[self.run.route].check(_without_garbage(self.run.delivered))
        is_cut = self.is_faulty or self.waited_s >= PUT_SECONDS or self.is_answered
        is_panel = len(self.run.policies) > len(self.run.heard)
        if not (is_cut or is_panel) and all(_is_harmless(policy) for policy in self.run.policies):
            assert self._is_as_it_came(), "nobody touched it"
        if not is_cut and not any(account.has_ended_answer for account in accounts):
            self._check_nothing_is_lost()

    def _check_nothing_is_lost(self) -> None:
        if any(len(panel) > 1 for panel in self.run.heard):
            return
        makes_calls = any(mark[1] == "n" for policy in self.run.policies for mark in policy.account.made)
        if self.run.route == "messages" and makes_calls:
            return  # after which nothing may be said
        promised = [mark for item in self.promised for mark in marks_in(text_of(item))]
        kinds = self._kept_kinds(has_calls=any(mark[1] == "n" for mark in promised))
        came = [mark for mark in promised if mark[1] in kinds]
        left = set(marks_in("".join(map(text_of, self.run.delivered))))
        lost = [mark for mark in came if self.run.may_leave(mark) and mark not in left]
        assert not lost, f"let out, and not delivered: {lost}"

    def _kept_kinds(self, *, has_calls: bool) -> str:
        """The kinds of pieces that leave if they are let out at all: on messages what is let out later than
        a call that it came before does not."""
        if self.run.route != "messages" or not has_calls:
            return "tr"
        hooks = {hook for policy in self.run.policies for hook in policy.account.hooks}
        return "".join(kind for kind in "tr" if DELTA_HOOKS[kind] not in hooks)

    def _is_as_it_came(self) -> bool:
        left, came = self.run.delivered, self.provider.came
        if all(isinstance(item, bytes) for item in [*left, *came]):
            left, came = [b"".join(left)], [b"".join(came)]
            return left == came
        return [id(item) for item in left] == [id(item) for item in came]


def _without_garbage(items: Sequence[Any]) -> Sequence[Any]:
    """`items`, of which those of bytes may be several of the wire's in one."""
    if not all(isinstance(item, bytes) for item in items):
        return [item for item in items if item not in GARBAGE]
    raw = b"".join(items)
    for garbage in GARBAGE:
        raw = raw.replace(garbage, b"") if isinstance(garbage, bytes) else raw
    return [raw]


async def _next(stream: AsyncGenerator[object, None]) -> object:
    return await anext(stream)


def _is_harmless(policy: Scripted) -> bool:
    """Whether a policy lets all of each piece out, when it comes."""
    if policy.account.is_left_out or policy.account.has_ended_answer:
        return False
    for hook, turns in policy.script.items():
        actions = {action for turn in turns for action in turn}
        if not actions <= HARMLESS or (hook.endswith("_delta") and not all("pass" in turn for turn in turns)):
            return False
    return True


Streaming.TestCase.settings = budget(80, stateful_step_count=30)
TestStreaming = Streaming.TestCase


@budget(60)
@given(st.data(), st.sampled_from(sorted(ROUTES)), STAGES, st.sampled_from(["notice", "error"]))
def test_a_full_answer_leaks_nothing_and_says_nothing_twice(
    data: Any, route: RouteName, stages: Stages, on_block: OnBlock
) -> None:
    run = Run(route, data.draw(answers(route)), stages, on_block=on_block)
    response = ROUTES[route].full(run.answer, {"model": "m"})
    run.makings.gate.set()
    work = run.loop.start(run.executor.run_full(response, run.adapter, run.ctx))
    for _ in range(200):
        if work.done() and not run.workers():
            break
        run.loop.pass_time(HOOK_SECONDS)
    assert work.done(), "the answer never ends"
    error = work.exception()
    assert error is None or isinstance(error, PolicyBlockedError | WireError), error
    if error is None:
        run.delivered = [work.result()]
        run.check_delivered()
        # A panel lets text out before the calls that it follows.
        if len(run.policies) == 1 and all(_is_harmless(policy) for policy in run.policies):
            assert work.result() is response, "nobody touched it"
    run.close()
    run.loop.close()
