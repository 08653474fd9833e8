"""Checks of a LiteLLM config beside the plugin's settings: callbacks, selection, lost records, pings, releases."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import cast

from luthien_litellm_hooks.config.check.source import (
    CALLBACKS,
    SECTIONS,
    Finding,
    LaunchEnvironment,
    Place,
    as_list,
    as_mapping,
    as_names,
)
from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.config.validation import nearest

CALLBACK = "luthien_litellm_hooks.luthien"
_OTHER_LISTS = ("success_callback", "failure_callback", "audit_log_callbacks", "post_call_rules")
_BEFORE_US = frozenset({"otel"})
"""LiteLLM's own callbacks that must precede ours, because their spans are the parents of ours."""

_SELECTED_BY_CLIENT: Mapping[str, str] = {
    "keys": "users can avoid this policy, since they choose the aliases of their keys: use `teams` or `users` instead",
    "headers": "clients can avoid this policy, since they choose their headers",
}

_RECORD = "spend_logs_metadata"
"""Member of a row's metadata for the record."""

_PINGS = "sse_keepalive_ping_interval_seconds"
_GEMINI = ("gemini/", "vertex_ai/", "*")

COMPROMISED = frozenset({"1.82.7", "1.82.8", "1.107.0"})
"""LiteLLM releases published by attackers; `docs/security.md` has the sources."""
_PINS = ("requirements*.txt", "constraints*.txt", "Dockerfile*", "pyproject.toml")
_PIN = re.compile(
    r"(?<![\w-])litellm(?:-database|-non_root|-ee)?(?:\[[^\]]*\])?\s*(?:===?|:\D*)\s*"
    rf"({'|'.join(map(re.escape, sorted(COMPROMISED)))})(?![.\d])"
)


def check_misplaced(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports the plugin in lists whose callbacks LiteLLM never asks to judge."""
    settings = launch.section("litellm_settings")
    for name in _OTHER_LISTS:
        for number, entry in enumerate(as_names(settings.get(name))):
            if entry == CALLBACK:
                message = f"callbacks of this list cannot withhold a response: move it to {CALLBACKS}"
                yield launch.finding(f"litellm_settings.{name}.{number}", message)


def check_order(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports callbacks behind the plugin. It should be the last."""
    entries = launch.callbacks()
    if CALLBACK not in entries:
        return
    first = entries.index(CALLBACK)
    for number, entry in enumerate(entries[first + 1 :], first + 1):
        key = f"{CALLBACKS}.{number}"
        if entry == CALLBACK:
            yield launch.finding(key, "duplicate: the policies would judge every response twice")
        elif entry in _BEFORE_US:
            yield launch.finding(key, "name it before the plugin, whose spans are children of its span", "warning")
        elif "." in entry:
            yield launch.finding(key, "may change responses after the policy: name the plugin last", "warning")


def check_named(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports why LiteLLM would not load the plugin, which then cannot stop the start."""
    if is_named(launch) or any(check_misplaced(launch)):
        return
    if any(launch.guardrails()):
        yield from _misspelt(launch)
        return
    yield next(_misspelt(launch), None) or launch.finding(
        CALLBACKS, f"the plugin is not named, so LiteLLM starts without it: add {CALLBACK!r}"
    )


def is_named(launch: LaunchEnvironment) -> bool:
    """Tells if LiteLLM loads the callback; it may load only guardrails."""
    return any(_loads_us(entry, launch) for entry in launch.callbacks())


def _misspelt(launch: LaunchEnvironment) -> Iterator[Finding]:
    for number, entry in enumerate(launch.callbacks()):
        if "luthien" in entry or nearest(entry, [CALLBACK]):
            yield launch.finding(f"{CALLBACKS}.{number}", f"unknown callback; did you mean {CALLBACK!r}?")
    top, settings = launch.source.values, launch.source.values.get("litellm_settings")
    for above, keys, name in (("", top, "litellm_settings"), ("litellm_settings.", settings, "callbacks")):
        near = _near_key(keys, name)
        if near:
            yield launch.finding(f"{above}{near}", f"LiteLLM ignores this key; did you mean {name!r}?")
    if "callbacks" in top:
        yield launch.finding("callbacks", f"LiteLLM ignores this key here: write {CALLBACKS}")


def _near_key(keys: object, name: str) -> str | None:
    if not isinstance(keys, Mapping) or name in keys:
        return None
    return nearest(name, cast(Mapping[str, object], keys).keys() - {*SECTIONS, *_OTHER_LISTS})


def _loads_us(entry: str, launch: LaunchEnvironment) -> bool:
    """Tells if LiteLLM finds the plugin under this name: installed, in a bucket, or beside the config."""
    if entry == CALLBACK:
        return True
    module, _, name = entry.rpartition(".")
    if not module or name != "luthien":
        return False
    beside = launch.source.file.parent / f"{module.replace('.', '/')}.py"
    return entry.startswith(("s3://", "gcs://")) or beside.exists()


def check_selection(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Warns of `when` where requests may match no policy, or their sender can choose to match none."""
    for key, section, spec in launch.governed():
        if _may_match_none(spec) and as_mapping(section.given).get("unselected") != "refuse":
            message = "a request that matches no `when` passes unjudged: set `unselected: refuse` to refuse it"
            yield launch.finding(key, message, "warning")
    for key, spec in launch.policies():
        for selector in as_mapping(spec.get("when")):
            if selector in _SELECTED_BY_CLIENT:
                yield launch.finding(f"{key}.when.{selector}", _SELECTED_BY_CLIENT[selector], "warning")


def _may_match_none(spec: Mapping[str, object]) -> bool:
    if as_mapping(spec.get("when")):
        return True
    members = as_list(as_mapping(spec.get("config")).get("policies")) if spec.get("class") in COMPOSITIONS else []
    return bool(members) and all(_may_match_none(as_mapping(member)) for member in members)


def check_lost_records(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Warns of settings with which LiteLLM silently drops records."""
    if not any(_is_in_rows(section.given) for section in launch.settings()):
        return
    general = launch.section("general_settings")
    if general.get("disable_spend_logs") is True:
        message = "LiteLLM writes no spend logs, so the records of policies are lost"
        yield launch.finding("general_settings.disable_spend_logs", message, "warning")
    fields = as_mapping(general.get("spend_logs_metadata_fields"))
    included, excluded = fields.get("include"), fields.get("exclude")
    key = "general_settings.spend_logs_metadata_fields"
    if included is not None and _RECORD not in as_list(included):
        yield launch.finding(f"{key}.include", f"LiteLLM drops the records of policies: add {_RECORD}", "warning")
    if _RECORD in as_list(excluded):
        yield launch.finding(f"{key}.exclude", f"LiteLLM drops the records of policies: remove {_RECORD}", "warning")


def check_sealing(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Warns if the proxy has no key to seal records with. Reasons and texts are then not recorded."""
    keys = ("LITELLM_SALT_KEY", "LITELLM_MASTER_KEY")
    has_key = launch.section("general_settings").get("master_key") or any(map(launch.environment.get, keys))
    if not has_key and any(_is_sealed(section.given) for section in launch.settings()):
        message = (
            "records will have no reasons and no texts, because the proxy has no key to seal them: set "
            "LITELLM_SALT_KEY or a master key, or `record.readable_by: owners`"
        )
        yield launch.finding("general_settings.master_key", message, "warning")


def _is_sealed(settings: object) -> bool:
    given = as_mapping(settings)
    return bool(given) and _is_in_rows(given) and as_mapping(given.get("record")).get("readable_by") != "owners"


def _is_in_rows(settings: object) -> bool:
    return as_mapping(as_mapping(settings).get("record")).get("store") not in ("sqlite", "off", False)


def check_pings(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Warns of LiteLLM's pings on Gemini's route: they are comments, and Google's own clients fail on them."""
    if launch.section("litellm_settings").get(_PINGS) and any(
        map(_is_gemini, as_list(launch.source.values.get("model_list")))
    ):
        message = "LiteLLM also sends pings on Gemini's route, where Google's clients fail: remove it if you use them"
        yield launch.finding(f"litellm_settings.{_PINGS}", message, "warning")


def _is_gemini(entry: object) -> bool:
    return str(as_mapping(as_mapping(entry).get("litellm_params")).get("model")).startswith(_GEMINI)


def check_releases(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports a compromised release of LiteLLM: an installed one, or one pinned in a file beside the config."""
    try:
        installed = version("litellm")
    except PackageNotFoundError:
        installed = ""
    if installed in COMPROMISED:
        yield Finding("", f"installed is {_warning(installed)}", Place(launch.source.file, 1))
    for file in sorted(path for pattern in _PINS for path in launch.source.file.parent.glob(pattern)):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            if (pin := _PIN.search(line)) and not line.lstrip().startswith("#"):
                yield Finding("", f"this names {_warning(pin[1])}", Place(file, number))


def _warning(release: str) -> str:
    return (
        f"LiteLLM {release}, a release that was compromised: install another, and change all keys and "
        "passwords that a process with it could read"
    )
