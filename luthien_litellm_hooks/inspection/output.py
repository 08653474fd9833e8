"""What the commands print: JSON for machines, and complaints."""

import json
import sys

from luthien_litellm_hooks.printable import escape


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def complain(text: str) -> None:
    """Says on standard error what went wrong, without anything that a terminal would obey."""
    print(escape(text), file=sys.stderr)
