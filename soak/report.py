"""What a soak has found, in plain tables."""

from collections.abc import Mapping
from itertools import chain

from soak.accounts import Account
from soak.samples import Samples

MAX_GROWTH = 0.05
_MAX_SHOWN = 20
_COLUMNS = ("requests", "wrong answers", "no record", "two records", "wrong records")


def print_accounts(accounts: Mapping[str, Account]) -> None:
    """A line for each case; below, the first of what is wrong."""
    print("\n" + f"{'case':34}" + "".join(f"{name:>15}" for name in _COLUMNS))
    for name, one in accounts.items():
        counts = (one.requests, *map(len, (one.wrong_answers, one.missing, one.doubled, one.wrong_records)))
        print(f"{name:34}" + "".join(f"{count:>15}" for count in counts))
    complaints = chain.from_iterable(
        (*one.wrong_answers, *one.missing, *one.doubled, *one.wrong_records) for one in accounts.values()
    )
    for _, complaint in zip(range(_MAX_SHOWN), complaints, strict=False):
        print(f"  {complaint}")


def print_samples(samples: Mapping[str, Samples]) -> None:
    """A line for each proxy."""
    print(f"\n{'proxy':12}{'MB at 1 min':>12}{'at the end':>12}{'growth':>9}{'most':>8}{'objects':>18}", end="")
    print(f"{'our tasks, most / left':>25}{'other tasks':>13}{'sockets left':>14}")
    for name, one in samples.items():
        print(_line(name, one))


def _line(name: str, one: Samples) -> str:
    first, last = one.growth
    most = max(gauges.resident for gauges in one.taken) / 1e6
    if one.first is None or one.last is None:
        raise ValueError(f"{name} was not read before and at the end")
    objects = f"{one.first.objects} / {one.last.objects}"
    tasks = f"{max(len(gauges.tasks) for gauges in one.taken)} / {len(one.last.tasks)}"
    sockets = sum(one.sockets(one.last))
    return (
        f"{name:12}{first:>12.1f}{last:>12.1f}{last / first - 1:>+9.1%}{most:>8.1f}{objects:>18}"
        f"{tasks:>25}{one.last.other_tasks:>13}{sockets:>14}"
    )


def failures(governed: Samples, stock: Samples, accounts: Mapping[str, Account]) -> list[str]:
    """What does not hold of what is promised."""
    failed: list[str] = []
    first, last = governed.growth
    if last > first * (1 + MAX_GROWTH):
        failed.append(f"memory grew by {last / first - 1:.1%} (stock: {stock.growth[1] / stock.growth[0] - 1:.1%})")
    if governed.last is None or governed.last.tasks:
        failed.append(f"tasks are left: {governed.last and governed.last.tasks}")
    if governed.last is None or not governed.is_quiet(governed.last):
        failed.append(f"sockets are left: {governed.last and governed.last.connections}")
    if bad := [name for name, one in accounts.items() if not one.is_good]:
        failed.append(f"answers or records are wrong or missing: {', '.join(bad)}")
    return failed
