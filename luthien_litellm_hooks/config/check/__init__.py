"""Check of a whole LiteLLM config: all findings for `luthien-hooks check`, and those still visible at a start."""

from collections.abc import Iterator, Mapping, Sequence

from luthien_litellm_hooks.config.check.admin_ui import check_admin_ui
from luthien_litellm_hooks.config.check.asking import check_asking
from luthien_litellm_hooks.config.check.rules import (
    check_lost_records,
    check_misplaced,
    check_named,
    check_order,
    check_pings,
    check_releases,
    check_selection,
)
from luthien_litellm_hooks.config.check.settings import (
    check_callback,
    check_guardrails,
    check_judges,
    check_variables,
)
from luthien_litellm_hooks.config.check.source import (
    CALLBACKS,
    Finding,
    LaunchEnvironment,
    Source,
    as_list,
    is_below,
    launch_context,
)
from luthien_litellm_hooks.config.settings import SETTINGS_KEY
from luthien_litellm_hooks.errors import ConfigError

_OURS = (SETTINGS_KEY, CALLBACKS)
"""Keys with duplicates as errors; elsewhere a duplicate is a warning."""
_SECTIONS = ("callback_settings", "litellm_settings")


def check(source: Source, environment: Mapping[str, str]) -> list[Finding]:
    """Returns the first finding of each key, ordered by line. Imports and creates the policies."""
    if source.unreadable and not source.values:
        return list(source.unreadable)
    launch = LaunchEnvironment.of(source, environment)
    with launch_context(launch.environment):
        findings = [
            *_check_text(launch),
            *check_named(launch),
            *check_callback(launch),
            *check_guardrails(launch),
            *check_selection(launch),
            *check_admin_ui(launch),
            *check_asking(launch),
        ]
    first: dict[str | Finding, Finding] = {}
    for finding in findings:
        first.setdefault(finding.key or finding, finding)
    return sorted(first.values(), key=lambda finding: (finding.place.file != source.file, finding.place.line))


def check_start(source: Source, environment: Mapping[str, str]) -> None:
    """Checks everything but the settings themselves. Raises `ConfigError`.

    LiteLLM has loaded us, so the config, or LiteLLM's database, names the plugin.
    """
    refuse(list(_check_text(LaunchEnvironment.of(source, environment))))


def refuse(findings: Sequence[Finding]) -> None:
    """Raises `ConfigError` if any of the findings is an error."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        text = "\n".join(map(format_finding, errors))
        raise ConfigError(text, [(finding.key, finding.message) for finding in errors])


def located(error: ConfigError, source: Source, environment: Mapping[str, str]) -> ConfigError:
    """Returns an error about settings with the file and line of each problem."""
    launch = LaunchEnvironment.of(source, environment)
    lines = (format_finding(launch.finding(key, message)) for key, message in error.problems)
    return ConfigError("\n".join(lines), error.problems)


def format_finding(finding: Finding) -> str:
    """Returns the finding as a line in the form of compilers, for people and editors."""
    key = f"{finding.key}: " if finding.key else ""
    return f"{finding.place.file}:{finding.place.line}: {finding.level}: {key}{finding.message}"


def _check_text(launch: LaunchEnvironment) -> Iterator[Finding]:
    yield from launch.source.unreadable
    yield from _check_include(launch)
    yield from _check_duplicates(launch)
    yield from _check_overridden(launch.source)
    yield from check_misplaced(launch)
    yield from check_order(launch)
    yield from check_variables(launch)
    yield from check_judges(launch)
    yield from check_lost_records(launch)
    yield from check_releases(launch)
    yield from check_pings(launch)


def _check_include(launch: LaunchEnvironment) -> Iterator[Finding]:
    include = launch.source.values.get("include")
    names = as_list(include)
    if include is not None and (not isinstance(include, list) or not all(isinstance(name, str) for name in names)):
        yield launch.finding("include", "should be a list of file names")


def _check_duplicates(launch: LaunchEnvironment) -> Iterator[Finding]:
    for key, place in launch.source.duplicates:
        is_ours = any(is_below(key, top) or is_below(top, key) for top in _OURS)
        level = "error" if is_ours else "warning"
        yield Finding(key, "duplicate key: LiteLLM uses the last one", place, level)
    if launch.policy_file:
        yield from launch.policy_file.unreadable
        for key, place in launch.policy_file.duplicates:
            yield Finding(f"{launch.policy_file.file}.{key}", "duplicate key: the plugin uses the last one", place)


def _check_overridden(source: Source) -> Iterator[Finding]:
    for key, place in source.overridden:
        if key in _SECTIONS:
            winner = source.place_of(key)
            message = f"ignored: LiteLLM uses the section in {winner.file}, line {winner.line}, instead"
            yield Finding(key, message, place, "warning")
