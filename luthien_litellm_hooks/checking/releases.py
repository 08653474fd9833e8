"""Releases of LiteLLM that carried foreign code, wherever they are installed or asked for."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from luthien_litellm_hooks.checking.source import Finding, Place
from luthien_litellm_hooks.checking.started import Start

COMPROMISED = frozenset({"1.82.7", "1.82.8", "1.107.0"})
"""Releases that attackers published: `docs/security.md` has the sources."""
_PINS = ("requirements*.txt", "constraints*.txt", "Dockerfile*", "pyproject.toml")
_PIN = re.compile(
    r"(?<![\w-])litellm(?:-database|-non_root|-ee)?(?:\[[^\]]*\])?\s*(?:===?|:\D*)\s*"
    rf"({'|'.join(map(re.escape, sorted(COMPROMISED)))})(?![.\d])"
)


def compromised(start: Start) -> Iterator[Finding]:
    """The installed release, and those that files beside the config pin."""
    try:
        installed = version("litellm")
    except PackageNotFoundError:
        installed = ""
    if installed in COMPROMISED:
        yield Finding("", f"installed is {_warned(installed)}", Place(start.source.file, 1))
    for file in sorted(path for pattern in _PINS for path in start.source.file.parent.glob(pattern)):
        for number, line in enumerate(_lines(file), 1):
            if (pin := _PIN.search(line)) and not line.lstrip().startswith("#"):
                yield Finding("", f"this names {_warned(pin[1])}", Place(file, number))


def _warned(release: str) -> str:
    return (
        f"LiteLLM {release}, a release that was compromised: install another, and change all keys and "
        "passwords that a process with it could read"
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
