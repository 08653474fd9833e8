"""`luthien-hooks replay`: policies judge recorded transactions again, without delivering anything."""

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress, TaskID

from luthien_litellm_hooks.cli.output import complain, print_json
from luthien_litellm_hooks.cli.replay.candidates import Candidate, load
from luthien_litellm_hooks.cli.replay.judge_replies import JudgeReplies, Judges, private
from luthien_litellm_hooks.cli.replay.labelled import Labelled
from luthien_litellm_hooks.cli.replay.printing import Report, as_json, print_report
from luthien_litellm_hooks.cli.replay.sources import Pair, choose
from luthien_litellm_hooks.cli.show import Source, complain_once, criteria
from luthien_litellm_hooks.cli.trial import Settings as PolicySettings
from luthien_litellm_hooks.errors import ConfigError, NotReplayableError
from luthien_litellm_hooks.monitor.comparison import Comparison, compare, row_of
from luthien_litellm_hooks.monitor.labels import read_labels
from luthien_litellm_hooks.telemetry.log_lines import logger

RECORDED = "recorded"
_AT_ONCE = 8
"""Transactions that are judged side by side, for their judges' time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Choices of one replay. `place` is a file or folder instead of the usual source, `limit` the largest number of
    transactions, `fail_on` a change that makes the exit code 1. `labels` is a file of labels, for rates on the calls
    with one; `target` the false-positive rate to find a threshold for."""

    candidate: str
    config: PolicySettings
    against: str
    place: Path | None
    since: str | None
    model: str | None
    key: str | None
    outcome: str | None
    limit: int
    judges: Judges
    cache: Path | None
    out: Path | None
    fail_on: str | None
    labels: Path | None
    target: float | None
    as_json: bool


def run_replay(source: Source, options: Options) -> int:
    """Prints the changes. Returns 1 if there is one of the kind `fail_on`; 2 if records or policies cannot be read, or
    nothing was judged."""
    try:
        with ExitStack() as stack:
            report = _replay(source, options, stack)
    except ConfigError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    complain_once(report.chosen.complaints)
    if options.as_json:
        print_json(as_json(report))
    else:
        print_report(report)
    if report.totals.transactions + report.counterfactual.transactions == 0:
        complain("There is no matching transaction that can be judged.")
        return 2
    return int(report.has(options.fail_on))


def _replay(source: Source, options: Options, stack: ExitStack) -> Report:
    candidate = load(options.candidate, options.config, stack)
    other = None if options.against == RECORDED else load(options.against, PolicySettings(None, None), stack)
    wanted = criteria(outcome=options.outcome, model=options.model, key=options.key, since=options.since)
    replies = JudgeReplies(options.judges, options.cache, _versions(candidate, other))
    chosen = choose(source, options.place, wanted, options.limit)
    report = Report(candidate, other, str(options.place or source.place), chosen, replies, _labelled(options))
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # failures are counted
    began = time.monotonic()
    gc.freeze()  # else the collector goes through all records again and again
    try:
        with redirect_stdout(sys.stderr):  # LiteLLM prints advice, and --json is for machines
            asyncio.run(_judge_all(report, options.out))
    finally:
        gc.unfreeze()
        logger.setLevel(level)
    report.seconds = time.monotonic() - began
    return report


def _labelled(options: Options) -> Labelled | None:
    if options.labels is None:
        if options.target is not None:
            raise ConfigError("--target-fpr needs --labels: a rate counts on calls with a label.")
        return None
    labels = read_labels(options.labels)
    complain_once(labels.complaints(options.labels))
    return Labelled(labels, options.target)


def _versions(candidate: Candidate, other: Candidate | None) -> dict[str, frozenset[str]]:
    versions = candidate.versions_at_thresholds()
    for name, more in (other.versions_at_thresholds() if other else {}).items():
        versions[name] = versions.get(name, frozenset()) | more
    return versions


async def _judge_all(report: Report, out: Path | None) -> None:
    with ExitStack() as stack:
        try:
            changes = None if out is None else stack.enter_context(_private_file(out))
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror}") from None
        progress, task = _progress(len(report.chosen.pairs), stack)
        async with aclosing(_in_order(report)) as judged:
            async for (_, record), result in judged:
                progress.advance(task)
                report.add(record, result)
                if changes is not None and isinstance(result, Comparison):
                    rows = [row_of(one, record) for one in result.compared if one.change != "unchanged"]
                    extra = {"is_counterfactual": True} if result.is_counterfactual else {}
                    changes.writelines(json.dumps({**row, **extra}) + "\n" for row in rows)


def _private_file(path: Path) -> TextIO:
    """Opens a new or emptied file for its user alone: it has texts of the traffic."""
    descriptor = private(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "w", encoding="utf-8")


def _progress(total: int, stack: ExitStack) -> tuple[Progress, TaskID]:
    """Returns a progress bar on the standard error, shown in a terminal alone."""
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    stack.enter_context(progress)
    return progress, progress.add_task("replaying", total=total)


async def _in_order(report: Report) -> AsyncGenerator[tuple[Pair, Comparison | str]]:
    """Yields each transaction with its comparison, or with the reason against one, oldest first."""
    waiting = deque[tuple[Pair, asyncio.Task[Comparison | str]]]()
    try:
        for pair in report.chosen.pairs:
            waiting.append((pair, asyncio.create_task(_compare(report, pair))))
            if len(waiting) == _AT_ONCE:
                done, task = waiting.popleft()
                yield done, await task
        while waiting:
            done, task = waiting.popleft()
            yield done, await task
    finally:
        for _, task in waiting:
            task.cancel()


async def _compare(report: Report, pair: Pair) -> Comparison | str:
    transaction, record = pair
    try:
        after = await report.candidate.judge(transaction, record, report.replies.of(record))
        before = record
        if report.against is not None:
            before = await report.against.judge(transaction, record, report.replies.of(record))
        return compare(record, before, after)
    except NotReplayableError as error:
        return str(error)
    except RecursionError:
        return "the request is nested too deeply"
