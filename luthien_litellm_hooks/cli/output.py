"""Output of the commands: JSON for machines, consoles for people, complaints on standard error."""

import json
import os
import sys

from rich.console import Console

from luthien_litellm_hooks.telemetry.log_lines import escape

_WIDTH_OF_A_FILE = 200


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def complain(text: str) -> None:
    """Prints an error on standard error, with control characters escaped."""
    print(escape(text), file=sys.stderr)


def terminal() -> Console:
    """Returns a console as wide as the terminal, or as COLUMNS says."""
    console = Console(highlight=False, markup=False, emoji=False)
    is_measured = console.is_terminal or "COLUMNS" in os.environ
    return console if is_measured else Console(highlight=False, markup=False, emoji=False, width=_WIDTH_OF_A_FILE)
