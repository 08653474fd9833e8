"""What the plugin costs, beside the stock proxy: `python -m benchmarks`, or `make bench`.

A proxy process of each variant runs, and a provider that writes prepared answers. All proxies do
the same work in turn, A B C A B C, so that what else the machine does falls on all alike; every
figure is the median of the rounds. The result is Markdown. Linux only.
"""

import argparse
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

from benchmarks.measuring import measure_beginnings, measure_memory, measure_round
from benchmarks.provider import running_provider
from benchmarks.proxies import cores, running_proxies
from benchmarks.streams import CALLS, Load, Route
from benchmarks.tables import Results
from benchmarks.variants import STOCK, VARIANTS, proxy_config
from luthien_litellm_hooks import __version__

ROUTES: tuple[Route, ...] = ("chat", "messages", "responses")
GROWING_VARIANTS = (STOCK, "noop", "tool_rules")
SHORT = Load("short", words=50, repeats=10)
_PAUSE_S = 0.001
"""So that the proxy waits for each event: written without a pause, several come in one read of the network."""
SHORT_PACED = Load("short-paced", words=50, pause_s=_PAUSE_S, repeats=3)
FIRST = Load("first", words=8, pause_s=_PAUSE_S)
HISTORY = Load("history", words=50, history=100, repeats=5)
TOOLS = Load(CALLS, calls=3)
HELD = Load("held", words=130, held_after=120)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done."""

    text: Load
    paced: Load
    few: Load
    many: Load
    open_streams: int
    beginnings: int
    rounds: int

    @property
    def loads(self) -> Sequence[Load]:
        return (*self.of_all, FIRST, self.few, self.many, HELD)

    @property
    def of_all(self) -> Sequence[Load]:
        """What every proxy is measured with in each round."""
        return (SHORT, SHORT_PACED, HISTORY, self.text, self.paced, TOOLS)


FULL = Plan(
    text=Load("text", 2_000),
    paced=Load("paced", 500, pause_s=_PAUSE_S),
    few=Load("few", 1_000),
    many=Load("many", 20_000),
    open_streams=200,
    beginnings=200,
    rounds=5,
)
QUICK = Plan(
    text=Load("text", 500),
    paced=Load("paced", 200, pause_s=_PAUSE_S),
    few=Load("few", 500),
    many=Load("many", 3_000),
    open_streams=50,
    beginnings=40,
    rounds=2,
)


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no proxy is left behind
    plan = QUICK if arguments.quick else FULL
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    began = time.monotonic()
    results = measure(plan, arguments.routes, arguments.variants)
    print(_heading(plan, (time.monotonic() - began) / 60))
    for table in _tables(plan, results):
        print(table)


def measure(plan: Plan, routes: Sequence[Route], variants: Sequence[str]) -> Results:
    """Everything of a plan, of some routes and variants."""
    scripts = {(route, load.name): load.frames(route) for route in routes for load in plan.loads}
    with running_provider(scripts) as provider, tempfile.TemporaryDirectory() as folder:
        names = [load.name for load in plan.loads]
        configs = {variant: proxy_config(variant, provider.url, names) for variant in variants}
        _say(f"starting {len(configs)} proxies")
        with running_proxies(configs, Path(folder)) as proxies:
            every = [(load, variants) for load in plan.of_all]
            growing = [
                (load, [name for name in variants if name in GROWING_VARIANTS]) for load in (plan.few, plan.many)
            ]
            _say("warming up")  # LiteLLM does much at its first requests
            able = measure_round(proxies, provider, routes, [*every, (FIRST, variants)])
            _say("waiting for first words")
            beginnings = measure_beginnings(proxies, FIRST, able, plan.beginnings)
            _say("opening streams")
            memory = measure_memory(proxies, provider, routes, HELD, plan.open_streams)
            rounds = []
            for number in range(plan.rounds):
                _say(f"round {number + 1} of {plan.rounds}")
                rounds.append(measure_round(proxies, provider, routes, [*every, *growing]))
    return Results(routes, variants, rounds, memory, beginnings)


def _tables(plan: Plan, results: Results) -> Iterable[str]:
    per_chunk = results.microseconds_a_chunk
    yield results.compared(f"CPU time of a chunk, µs, in answers of {plan.text.words:,}", per_chunk(plan.text, SHORT))
    yield results.compared(
        f"CPU time of a chunk, µs, in answers of {plan.paced.words:,} that come {_PAUSE_S * 1e3:g} ms apart",
        per_chunk(plan.paced, SHORT_PACED),
    )
    yield results.growth(
        f"CPU time of a chunk, µs, in answers of {plan.few.words:,} → {plan.many.words:,}; and over stock",
        per_chunk(plan.few, SHORT),
        per_chunk(plan.many, SHORT),
    )
    for load, after in ((SHORT, ""), (HISTORY, f" after a history of {HISTORY.history} messages of 1 KB")):
        title = f"CPU time of an answer of {load.words} chunks{after}, ms"
        yield results.compared(title, results.median_of(load, lambda sample: sample.cpu_s, 1e3))
    for what, moment in (("First byte", "first_byte_s"), ("First word", "first_word_s")):
        title = f"{what} of an answer whose chunks come {_PAUSE_S * 1e3:g} ms apart, ms"
        yield results.compared(title, results.milliseconds_until(attrgetter(moment)))
    for number, which in ((0, "first"), (-1, "last")):
        title = f"From the last byte of the {which} of {TOOLS.calls} tool calls of 50 KB to its arrival, ms"
        yield results.compared(
            title, results.median_of(TOOLS, lambda sample, number=number: sample.call_lags_s[number], 1e3)
        )
    yield results.compared(
        f"Resident memory of each of {plan.open_streams} open streams, KB",
        lambda route, variant: results.memory[route, variant] / 1024,
    )
    yield results.collections("Full collections of the garbage collector, beside the above, %")
    yield results.compared(
        f"Reads of an answer of {plan.text.words:,} chunks at the client",
        results.median_of(plan.text, lambda sample: sample.reads),
    )


def _heading(plan: Plan, minutes: float) -> str:
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    machine = f"{_processor()}, {cores()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    software = f"LiteLLM {version('litellm')}, luthien-litellm-hooks {__version__}"
    return f"`{command}`: {plan.rounds} rounds in {minutes:.0f} minutes; {machine}, {software}.\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--routes", type=_some_of(ROUTES), default=ROUTES, help=f"of {','.join(ROUTES)}")
    parser.add_argument("--variants", type=_some_of(VARIANTS), default=tuple(VARIANTS), help=f"of {','.join(VARIANTS)}")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--quick", action="store_true", help="less of everything, in less than ten minutes")
    return parser.parse_args()


def _some_of(known: Iterable[str]) -> Callable[[str], Sequence[str]]:
    def names(text: str) -> Sequence[str]:
        given = text.split(",")
        if unknown := set(given) - {*known}:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return [name for name in known if name in given or name == STOCK]

    return names


def _say(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    main()
