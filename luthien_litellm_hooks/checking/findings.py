"""A config's findings: all of them for `luthien-hooks check`, and those that a start can still see."""

from collections.abc import Iterator, Mapping, Sequence

from luthien_litellm_hooks.checking.callbacks import misplaced, order, unnamed
from luthien_litellm_hooks.checking.guardrails import wrong_guardrails
from luthien_litellm_hooks.checking.lost_records import lost_records
from luthien_litellm_hooks.checking.pings import pings_on_gemini
from luthien_litellm_hooks.checking.references import unknown_judges, unset
from luthien_litellm_hooks.checking.releases import compromised
from luthien_litellm_hooks.checking.selection import leavable
from luthien_litellm_hooks.checking.settings import wrong_settings
from luthien_litellm_hooks.checking.source import Finding, Source, is_below
from luthien_litellm_hooks.checking.started import CALLBACKS, Start, as_started, items
from luthien_litellm_hooks.config import SETTINGS_KEY
from luthien_litellm_hooks.errors import ConfigError

_OURS = (SETTINGS_KEY, CALLBACKS)
"""Where a key that stands twice is an error; elsewhere it is LiteLLM's business."""
_SECTIONS = ("callback_settings", "litellm_settings")


def check(source: Source, environment: Mapping[str, str]) -> list[Finding]:
    """All that is wrong, of each key what is found first, in the order of the lines. Policies are
    imported and made."""
    if source.unreadable and not source.values:
        return list(source.unreadable)
    start = Start.of(source, environment)
    with as_started(start.environment):
        findings = [
            *_written(start),
            *unnamed(start),
            *wrong_settings(start),
            *wrong_guardrails(start),
            *leavable(start),
        ]
    found: dict[str | Finding, Finding] = {}
    for finding in findings:
        found.setdefault(finding.key or finding, finding)
    return sorted(found.values(), key=lambda finding: (finding.place.file != source.file, finding.place.line))


def check_start(source: Source, environment: Mapping[str, str]) -> None:
    """What a config has wrong beside the settings themselves. Raises `ConfigError`.

    It has led LiteLLM to us, so it, or LiteLLM's database, names the plugin.
    """
    refuse(list(_written(Start.of(source, environment))))


def refuse(findings: Sequence[Finding]) -> None:
    """Raises `ConfigError` with those that are errors, if there are any."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise ConfigError("\n".join(map(in_words, errors)), [(finding.key, finding.message) for finding in errors])


def located(error: ConfigError, source: Source, environment: Mapping[str, str]) -> ConfigError:
    """An error in a config's settings, each of its problems with file and line."""
    start = Start.of(source, environment)
    return ConfigError("\n".join(in_words(start.finding(key, what)) for key, what in error.problems), error.problems)


def in_words(finding: Finding) -> str:
    """A finding in a line, in the form that editors know from compilers."""
    key = f"{finding.key}: " if finding.key else ""
    return f"{finding.place.file}:{finding.place.line}: {finding.level}: {key}{finding.message}"


def _written(start: Start) -> Iterator[Finding]:
    yield from start.source.unreadable
    yield from _include(start)
    yield from _repeated(start)
    yield from _overridden(start.source)
    yield from misplaced(start)
    yield from order(start)
    yield from unset(start)
    yield from unknown_judges(start)
    yield from lost_records(start)
    yield from compromised(start)
    yield from pings_on_gemini(start)


def _include(start: Start) -> Iterator[Finding]:
    include = start.source.values.get("include")
    entries = items(include)
    if include is not None and (not isinstance(include, list) or not all(isinstance(name, str) for name in entries)):
        yield start.finding("include", "should be a list of file names")


def _repeated(start: Start) -> Iterator[Finding]:
    for key, place in start.source.repeated:
        is_ours = any(is_below(key, top) or is_below(top, key) for top in _OURS)
        message = "stands here once more, and LiteLLM takes only the last"
        yield Finding(key, message, place, "error" if is_ours else "warning")
    if start.policy_file:
        yield from start.policy_file.unreadable
        for key, place in start.policy_file.repeated:
            yield Finding(f"{start.policy_file.file}.{key}", "stands here once more, and only the last counts", place)


def _overridden(source: Source) -> Iterator[Finding]:
    for key, place in source.overridden:
        if key in _SECTIONS:
            won = source.place_of(key)
            message = f"none of this counts: LiteLLM takes that of {won.file}, line {won.line}, in its place"
            yield Finding(key, message, place, "warning")
