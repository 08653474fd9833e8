"""One run: every variant does the same work in turn, round after round."""

import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import NamedTuple

from benchmarks.client import Asked, BrokenAnswerError, Received
from benchmarks.provider import Provider
from benchmarks.proxies import MeasuredProxy
from benchmarks.streams import Load, Route

_STEPS = 5
_REST_S = 0.02
"""Leaves LiteLLM the time to log the answer before."""
_MOST_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the CPU time of the proxy for each answer but for full collections of the garbage collector,
    that of these, and in how many reads an answer came. `call_lags_s` says of each tool call how long after
    the provider had written its last byte it was there."""

    cpu_s: float
    collected_s: float
    reads: float
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
    began, collected = proxy.cpu_s, proxy.collected_s
    answers: list[Received] = []
    for _ in range(load.repeats):
        answers.append(Asked(proxy, route, load).read_all())
        proxy.settle()  # or what LiteLLM logs of an answer would delay the next
    collected_s = (proxy.collected_s - collected) / load.repeats
    cpu_s = (proxy.cpu_s - began) / load.repeats - collected_s
    reads = median(len(answer.pieces) for answer in answers)
    if load.calls:
        return Sample(cpu_s, collected_s, reads, call_lags_s=_lags(answers[0], load, provider.marks.get()))
    return Sample(cpu_s, collected_s, reads)


def _lags(answer: Received, load: Load, written_at: Sequence[float]) -> tuple[float, ...]:
    return tuple(answer.seen_at[mark] - written for mark, written in zip(load.marks, written_at, strict=True))


class Beginning(NamedTuple):
    """How long the first byte of a response took, and the first word of its answer."""

    first_byte_s: float
    first_word_s: float


def measure_beginnings(
    proxies: Mapping[str, MeasuredProxy], load: Load, able: Iterable[tuple[Route, str, str]], count: int
) -> Mapping[tuple[Route, str], Sequence[Beginning]]:
    """How `count` answers began, by route and variant: of those that are `able` to give whole answers of the load. One
    answer of each is asked for in turn, so those of one number belong together."""
    began: dict[tuple[Route, str], list[Beginning]] = {(route, name): [] for route, of, name in able if of == load.name}
    for route in dict.fromkeys(route for route, _ in began):
        variants = [variant for of, variant in began if of == route]
        for number in range(count):
            for variant in variants if number % 2 else reversed(variants):
                time.sleep(_REST_S)
                answer = Asked(proxies[variant], route, load).read_all()
                began[route, variant].append(Beginning(answer.first_byte_s, answer.first_word_s))
    return began


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
    broken = Counter(variant for variant, answer in waiting if not _is_whole(answer))
    for variant, number in broken.items():
        print(f"{variant}: {number} of the answers that had to wait were not whole", file=sys.stderr)
    return memory


def _is_whole(answer: Asked) -> bool:
    try:
        answer.read_all()
    except BrokenAnswerError:
        return False
    return True


def _wait_until_held(provider: Provider, asked: Sequence[Asked]) -> None:
    for _ in asked:
        if not provider.held.acquire(timeout=_MOST_S):
            raise TimeoutError("the provider was not asked")
