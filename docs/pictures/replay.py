"""Draws the picture of `luthien-hooks replay` over a session of Claude Code: `python -m docs.pictures.replay`, from the
repository's root."""

import io
import re
import shlex
from contextlib import chdir
from pathlib import Path

from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from luthien_litellm_hooks.cli import app

PICTURE = Path(__file__).with_suffix(".svg")
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "replaying.md"
WIDTH = 100
COLOURS = {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}


def picture() -> str:
    """The picture as it should be, of the command on the page: the same at each call."""
    text = PAGE.read_text(encoding="utf-8")
    [command] = re.findall(r"^\$ (luthien-hooks replay .*tests/support/transcripts.*)$", text, re.MULTILINE)
    with chdir(ROOT):
        printed = CliRunner().invoke(app, shlex.split(command)[1:], env=COLOURS, color=True).stdout
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    console.print(Text(f"$ {command}\n"))
    console.print(Text.from_ansi(re.sub(r"in \d+\.\d s", "in 0.3 s", printed)))
    return console.export_svg(title="luthien-hooks replay", unique_id="replay")


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
