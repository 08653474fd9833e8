"""One run: every variant does the same work in turn, round after round."""

import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from statistics import median

from benchmarks.client import Asked, BrokenAnswerError, Received
from benchmarks.provider import Provider
from benchmarks.proxies import MeasuredProxy
from benchmarks.streams import Load, Route

_STEPS = 5
_MOST_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the CPU time of the proxy for each answer, how long the first word took, and
    in how many reads an answer came. `call_lags_s` says of each tool call how long after
    the provider had written its last byte it was there."""

    cpu_s: float
    reads: float
    first_word_s: float = 0.0
    call_lags_s: tuple[float, ...] = ()


Round = Mapping[tuple[Route, str, str], Sample]
"""By route, load and variant; without those of which an answer was broken."""


def measure_round(
    proxies: Mapping[str, MeasuredProxy],
    provider: Provider,
    routes: Iterable[Route],
    loads: Sequence[tuple[Load, Sequence[str]]],
) -> Round:
    """A sample of each load, on each route, of each of the variants that it is for."""
    samples: dict[tuple[Route, str, str], Sample] = {}
    for route, (load, variants) in product(routes, loads):
        for variant in variants:
            with _telling_of_broken(variant):
                samples[route, load.name, variant] = _sample(proxies[variant], provider, route, load)
    return samples


@contextmanager
def _telling_of_broken(variant: str) -> Generator[None]:
    try:
        yield
    except BrokenAnswerError as error:
        print(f"{variant}: {error}", file=sys.stderr)


def _sample(proxy: MeasuredProxy, provider: Provider, route: Route, load: Load) -> Sample:
    proxy.settle()
    while not provider.marks.empty():  # of an answer that was broken
        provider.marks.get()
    began = proxy.cpu_s
    answers: list[Received] = []
    for _ in range(load.repeats):
        answers.append(Asked(proxy, route, load).read_all())
        proxy.settle()  # or what LiteLLM logs of an answer would delay the next
    cpu_s = (proxy.cpu_s - began) / load.repeats
    reads = median(len(answer.pieces) for answer in answers)
    if load.calls:
        return Sample(cpu_s, reads, call_lags_s=_lags(answers[0], load, provider.marks.get()))
    return Sample(cpu_s, reads, first_word_s=median(answer.first_word_s for answer in answers))


def _lags(answer: Received, load: Load, written_at: Sequence[float]) -> tuple[float, ...]:
    return tuple(answer.seen_at[mark] - written for mark, written in zip(load.marks, written_at, strict=True))


def measure_memory(
    proxies: Mapping[str, MeasuredProxy], provider: Provider, routes: Iterable[Route], load: Load, count: int
) -> Mapping[tuple[Route, str], float]:
    """How many bytes a process holds for each of `count` answers that wait, by route and variant.

    The answers of all routes wait together: what one gave back, the next would take again unseen.
    """
    provider.gate.clear()
    memory: dict[tuple[Route, str], float] = {}
    waiting: list[tuple[str, Asked]] = []
    for route, (variant, proxy) in product(routes, proxies.items()):
        grown: list[float] = []
        for _ in range(_STEPS):
            proxy.settle()
            before = proxy.resident_bytes
            asked = [Asked(proxy, route, load) for _ in range(count // _STEPS)]
            _wait_until_held(provider, asked)
            proxy.settle()
            grown.append((proxy.resident_bytes - before) / len(asked))
            waiting += [(variant, answer) for answer in asked]
        memory[route, variant] = median(grown[1:])  # with the first come the buffers that all share
    provider.gate.set()
    for variant, answer in waiting:
        with _telling_of_broken(variant):
            answer.read_all()
    return memory


def _wait_until_held(provider: Provider, asked: Sequence[Asked]) -> None:
    for _ in asked:
        if not provider.held.acquire(timeout=_MOST_S):
            raise TimeoutError("the provider was not asked")
