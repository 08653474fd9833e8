"""Recorded streams of real providers, a folder for each wire; tests skip where they are absent."""

import os
from pathlib import Path

STREAMS = Path(os.environ.get("LUTHIEN_TEST_STREAMS") or Path(__file__).parents[3] / "shared" / "streams")
