"""The doctor's findings as a table or as JSON, and as an exit code."""

import json
import sys
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.doctor.examination import Result, examine
from luthien_litellm_hooks.doctor.verdicts import Verdict
from luthien_litellm_hooks.errors import ConfigError

_STYLES: dict[Verdict, str] = {
    "governed": "green",
    "refused": "green",
    "not available": "yellow",
    "NOT GOVERNED": "bold red",
}
_WIDTH_OF_A_FILE = 200


def run_doctor(url: str, key: str, models: Sequence[str], *, as_json: bool) -> int:
    """Prints what was found. Returns 1 if something is not governed, 2 if nothing could be asked."""
    try:
        results = examine(url, key.strip(), models)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print_json(results) if as_json else print_table(results)
    return int(any(result.finding.verdict == "NOT GOVERNED" for result in results))


def print_json(results: Sequence[Result]) -> None:
    rows = [
        {
            "route": result.probe.route,
            "mode": result.probe.mode,
            "model": result.probe.model,
            "verdict": result.finding.verdict,
            "reason": result.finding.reason,
        }
        for result in results
    ]
    print(json.dumps({"results": rows}, indent=2))


def print_table(results: Sequence[Result]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("route", "mode", "model"):
        table.add_column(title, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for result in results:
        probe, finding = result.probe, result.finding
        verdict = Text(finding.verdict, _STYLES[finding.verdict])
        table.add_row(Text(probe.route), probe.mode, Text(probe.model), verdict, Text(finding.reason))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    console.print(table)
    counts = Counter(result.finding.verdict for result in results)
    console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES))
