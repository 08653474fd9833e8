"""A real Chromium without a screen, driven by Playwright. Debian's is installed where a machine of root's has none."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

_PACKAGE = "chromium-headless-shell"
_NAMES = (
    *(_PACKAGE, "chromium", "chromium-browser", "google-chrome"),
    *("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",),
)
_QUIET = (
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
    *("--disable-gpu", "--disable-quic"),
)
"""What keeps it from asking other hosts, or for hardware."""

PATIENCE_MS = 120_000


@contextmanager
def running_chromium() -> Generator[Browser]:
    """A browser of its own. Within the context this thread cannot run another event loop."""
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium refuses root one
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=[*_QUIET, *sandbox])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def new_context(browser: Browser, **options: Any) -> Generator[BrowserContext]:
    """A person's own cookies and pages, who wait as long as tests do."""
    with browser.new_context(**options) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context


def _chromium() -> str:
    with (Path(tempfile.gettempdir()) / f"luthien-chromium-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker installs it
        found = _find()
        if found is None and os.getuid() == 0 and shutil.which("apt-get"):
            _apt_get("update")
            _apt_get("install", "--no-install-recommends", "--yes", _PACKAGE)
            found = _find()
    assert found, f"these tests need a Chromium: install Debian's package {_PACKAGE}, or Google Chrome"
    return found


def _find() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True, check=False)  # noqa: S607
    assert done.returncode == 0, f"apt-get {arguments[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"
