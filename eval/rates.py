"""Prints how often each preset acts on the calls of a corpus that it should act on, and on those it should not.

    python -m eval.rates build/eval/corpus.jsonl build/eval/own.jsonl [--verbose]

Each call is sent through the preset, with its default settings, as the only tool call of a streamed answer. The
preset acts on it if the client does not get just that call, so a call of which one secret of several is redacted
counts as acted on. The rules behind the labels are in `eval/corpus.py` and `eval/own.py`.
"""

import argparse
import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from luthien_litellm_hooks import Policy
from luthien_litellm_hooks.cli import rates
from luthien_litellm_hooks.testing import Call as ScriptedCall
from luthien_litellm_hooks.testing import ScriptedAnswer, run_policy

PIECE = 1000
"""How many characters of a call's arguments come at once."""


class Call(BaseModel):
    """One line of the corpus. `labels` has a preset's name, and whether the preset should act; without a name the
    call is not counted for that preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: str
    tool: str
    arguments: str
    """JSON, as a model writes it."""
    labels: dict[str, bool]


@dataclass
class Rate:
    """How many of the calls that were counted the preset acted on."""

    hits: list[Call] = field(default_factory=list[Call])
    misses: list[Call] = field(default_factory=list[Call])

    @property
    def total(self) -> int:
        return len(self.hits) + len(self.misses)

    def add(self, call: Call, is_hit: bool) -> None:
        (self.hits if is_hit else self.misses).append(call)

    def __str__(self) -> str:
        return str(rates.Rate(len(self.hits), self.total))


@dataclass
class Measurement:
    """What a preset did with the calls it should act on, with those it should pass, and with those that are
    not counted."""

    should_act: Rate = field(default_factory=Rate)
    should_pass: Rate = field(default_factory=Rate)
    not_counted: Rate = field(default_factory=Rate)

    def rate_for(self, label: bool | None) -> Rate:
        if label is None:
            return self.not_counted
        return self.should_act if label else self.should_pass


async def measure(preset: str, policy: Policy | Mapping[str, object], calls: Iterable[Call]) -> Measurement:
    """What `policy` does with `calls`, by their labels for `preset`. Raises `RuntimeError` if the policy fails on
    one: then there is nothing to count."""
    measurement = Measurement()
    for call in calls:
        measurement.rate_for(call.labels.get(preset)).add(call, await acts_on(policy, call))
    return measurement


async def acts_on(policy: Policy | Mapping[str, object], call: Call) -> bool:
    """Whether the client gets anything but the call."""
    answer = ScriptedAnswer([ScriptedCall(call.tool, call.arguments)], piece=PIECE)
    outcome = await run_policy(policy, answer)
    failures = [decision.policy for decision in outcome.decisions if decision.action == "error"]
    if failures:
        raise RuntimeError(f"{failures[0]} failed on {call.id}")
    delivered = [(tool_call.name, tool_call.arguments) for tool_call in outcome.tool_calls]
    return delivered != [(call.tool, call.arguments)] or outcome.text != ""


def read_corpus(path: Path) -> list[Call]:
    """The calls in a corpus file, one JSON object a line."""
    return [Call.model_validate_json(line) for line in path.read_text("utf-8").splitlines()]


def rates_table(measurements: dict[str, Measurement]) -> Table:
    """The true- and false-positive rate of each preset."""
    table = Table(
        "preset",
        "should act",
        "acted: TPR [95 %]",
        "should pass",
        "acted: FPR [95 %]",
        "not counted",
        "acted",
        box=MARKDOWN,
    )
    for name, found in measurements.items():
        act, let, rest = found.should_act, found.should_pass, found.not_counted
        table.add_row(name, str(act.total), str(act), str(let.total), str(let), str(rest.total), str(len(rest.hits)))
    return table


def sources_table(measurements: dict[str, Measurement]) -> Table:
    """How many of the calls of each source that should pass were acted on."""
    sources = {call.source for found in measurements.values() for call in _calls_of(found.should_pass)}
    table = Table("false positives in", *measurements, box=MARKDOWN)
    for source in sorted(sources):
        table.add_row(source, *(_of_source(found.should_pass, source) for found in measurements.values()))
    return table


def _of_source(rate: Rate, source: str) -> str:
    hits, total = (sum(call.source == source for call in calls) for calls in (rate.hits, _calls_of(rate)))
    return f"{hits} of {total}"


def _calls_of(rate: Rate) -> list[Call]:
    return rate.hits + rate.misses


def print_errors(measurements: dict[str, Measurement], console: Console) -> None:
    """Every call that a preset got wrong."""
    for name, found in measurements.items():
        for verdict, calls in (("missed", found.should_act.misses), ("false positive", found.should_pass.hits)):
            for call in calls:
                console.print(f"{name}: {verdict}: {call.id}: {call.tool} {call.arguments[:120]}", markup=False)


async def run(path: Path, is_verbose: bool, console: Console) -> None:
    """Measures every preset with labels in the corpus at `path`, and prints the rates.

    A corpus without a call that several presets are measured by is large: then calls without a label are left out.
    """
    calls = read_corpus(path)
    presets = dict.fromkeys(name for call in calls for name in call.labels)
    is_apart = all(len(call.labels) == 1 for call in calls)
    measurements = {
        name: await measure(name, {"class": name}, [call for call in calls if not is_apart or name in call.labels])
        for name in presets
    }
    console.print(
        f"{len(calls)} tool calls in {path.name}", rates_table(measurements), sources_table(measurements), sep="\n"
    )
    if is_verbose:
        print_errors(measurements, console)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="True- and false-positive rates of the presets on a labelled corpus.")
    parser.add_argument("corpora", type=Path, nargs="+", help="files from eval/corpus.py and eval/own.py")
    parser.add_argument("--verbose", action="store_true", help="also list every call that a preset got wrong")
    options = parser.parse_args(arguments)
    logging.getLogger("luthien_litellm_hooks").setLevel(logging.ERROR)  # every blocked call would be a line
    for path in options.corpora:
        asyncio.run(run(path, options.verbose, Console(width=200, highlight=False, soft_wrap=True)))


if __name__ == "__main__":
    main()
