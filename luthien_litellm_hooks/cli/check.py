"""`luthien-hooks check`: errors of a config, before a proxy is started with it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, print_json, terminal
from luthien_litellm_hooks.config.check import check, format_finding
from luthien_litellm_hooks.config.check.source import (
    Finding,
    LaunchEnvironment,
    Source,
    as_list,
    as_mapping,
    is_below,
    read_source,
)
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.telemetry.log_lines import escape

_STYLES: Mapping[str, str] = {"error": "red", "warning": "yellow"}


def run_check(config: Path, *, as_json: bool) -> int:
    """Prints the findings. Returns 1 if a proxy would not start, or would start without the plugin; 2 if the file
    cannot be read."""
    try:
        source = read_source(config)
    except ConfigError as error:
        complain(str(error))
        return 2
    findings = [*find(source), *_refusals(LaunchEnvironment.of(source, os.environ))]
    _print_json(config, findings) if as_json else _print(source, findings)
    return int(any(finding.level == "error" for finding in findings))


def find(source: Source) -> list[Finding]:
    """Returns the findings of a config for a proxy started in this folder and environment."""
    return [*check(source, os.environ), *_route_names(LaunchEnvironment.of(source, os.environ))]


def _refusals(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports a missing or weak master key, with which LiteLLM refuses to start."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download
    from luthien_litellm_hooks.hooks.config_file import master_key_refusal

    added = {key: value for key, value in launch.environment.items() if os.environ.get(key) != value}
    if reason := master_key_refusal(launch.section("general_settings"), added):
        yield launch.finding("general_settings.master_key", reason)


def _route_names(launch: LaunchEnvironment) -> list[Finding]:
    problems: list[tuple[str, str]] = []
    for section in launch.settings():
        listed = [str(name) for name in as_list(as_mapping(section.given).get("ungoverned_routes"))]
        if all(name.startswith("/") for name in listed):
            continue
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download
        from luthien_litellm_hooks.hooks.routes import check_route_names

        try:
            check_route_names(listed, section.key)
        except ConfigError as error:
            problems += error.problems
    return [launch.finding(key, message) for key, message in problems]


def _print(source: Source, findings: Sequence[Finding]) -> None:
    console = terminal()
    for finding in findings:
        console.print(Text(escape(format_finding(finding)), _STYLES[finding.level]), soft_wrap=True)
    counts = Counter(finding.level for finding in findings)
    if counts["error"]:
        summary = Text(f"{source.file}: {_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}")
    else:
        summary = Text(f"{source.file}: fine. It sets {_policies(source)}.", "green")
    console.print(summary, soft_wrap=True)


def _policies(source: Source) -> str:
    launch = LaunchEnvironment.of(source, os.environ)
    tops = [key for key, section, _ in launch.governed() if as_mapping(section.given).get("enforce") is False]
    observed = [*tops, *(key for key, spec in launch.policies() if spec.get("enforce") is False)]
    named = [(key, str(spec["class"])) for key, spec in launch.policies() if "class" in spec]
    return escape(", ".join(name + _mode(key, observed) for key, name in named))


def _mode(key: str, observed: Sequence[str]) -> str:
    return " (only observed)" if any(is_below(key, top) for top in observed) else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _print_json(config: Path, findings: Sequence[Finding]) -> None:
    rows = [
        {
            "level": finding.level,
            "file": str(finding.place.file),
            "line": finding.place.line,
            "key": finding.key,
            "message": finding.message,
        }
        for finding in findings
    ]
    is_fine = not any(finding.level == "error" for finding in findings)
    print_json({"file": str(config), "is_fine": is_fine, "findings": rows})
