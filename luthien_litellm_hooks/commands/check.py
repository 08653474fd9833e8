"""`luthien-hooks check`: what is wrong with a config, before a proxy is started with it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from luthien_litellm_hooks.checking.findings import check, in_words
from luthien_litellm_hooks.checking.source import Finding, Source, read_source
from luthien_litellm_hooks.checking.started import Start, items, mapping
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.inspection.output import complain, print_json
from luthien_litellm_hooks.inspection.printing import terminal
from luthien_litellm_hooks.printable import escape

_STYLES: Mapping[str, str] = {"error": "red", "warning": "yellow"}


def run_check(config: Path, *, as_json: bool) -> int:
    """Prints what is wrong. Returns 1 if a proxy would not start, or without the plugin; 2 if the file
    cannot be read."""
    try:
        source = read_source(config)
    except ConfigError as error:
        complain(str(error))
        return 2
    found = [*find(source), *_refusals(Start.of(source, os.environ))]
    _print_findings(config, found) if as_json else _print(source, found)
    return int(any(finding.level == "error" for finding in found))


def find(source: Source) -> list[Finding]:
    """The findings of a config that a proxy in this folder and this environment is to be started with."""
    return [*check(source, os.environ), *_route_names(Start.of(source, os.environ))]


def _refusals(start: Start) -> Iterator[Finding]:
    """What LiteLLM does not start with, whatever is set of the plugin."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM would look for it on the network
    from luthien_litellm_hooks.hooks.boot_check import master_key_refusal

    added = {key: value for key, value in start.environment.items() if os.environ.get(key) != value}
    if reason := master_key_refusal(start.section("general_settings"), added):
        yield start.finding("general_settings.master_key", reason)


def _route_names(start: Start) -> list[Finding]:
    problems: list[tuple[str, str]] = []
    for section in start.settings():
        listed = [str(name) for name in items(mapping(section.given).get("ungoverned_routes"))]
        if not all(name.startswith("/") for name in listed):
            problems += _name_problems(listed, section.key)
    return [start.finding(key, what) for key, what in problems]


def _name_problems(setting: Sequence[str], key: str) -> Sequence[tuple[str, str]]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM would look for it on the network
    from luthien_litellm_hooks.hooks.route_names import check_route_names

    try:
        check_route_names(setting, key)
    except ConfigError as error:
        return error.problems
    return ()


def _print(source: Source, found: Sequence[Finding]) -> None:
    console = terminal()
    for finding in found:
        console.print(Text(escape(in_words(finding)), _STYLES[finding.level]), soft_wrap=True)
    counts = Counter(finding.level for finding in found)
    if counts["error"]:
        summary = Text(f"{source.file}: {_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}")
    else:
        summary = Text(f"{source.file}: fine. It sets {_policies(source)}.", "green")
    console.print(summary, soft_wrap=True)


def _policies(source: Source) -> str:
    """The classes that are set, as they are written."""
    classes = [str(spec.get("class")) for _, spec in Start.of(source, os.environ).policies() if "class" in spec]
    return escape(", ".join(classes))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _print_findings(config: Path, found: Sequence[Finding]) -> None:
    rows = [
        {
            "level": finding.level,
            "file": str(finding.place.file),
            "line": finding.place.line,
            "key": finding.key,
            "message": finding.message,
        }
        for finding in found
    ]
    is_fine = not any(finding.level == "error" for finding in found)
    print_json({"file": str(config), "is_fine": is_fine, "findings": rows})
