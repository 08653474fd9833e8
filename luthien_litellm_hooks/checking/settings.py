"""Whether the settings are there, and become a policy that runs."""

from collections.abc import Iterator, Mapping, Sequence

from luthien_litellm_hooks.checking.callbacks import is_named
from luthien_litellm_hooks.checking.references import resolved
from luthien_litellm_hooks.checking.source import Finding
from luthien_litellm_hooks.checking.started import SECTIONS, Start, mapping
from luthien_litellm_hooks.config import POLICY_FILE_VARIABLE, SETTINGS_KEY, build_executor, load_settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.policy_spec import PolicySpec, load_composition
from luthien_litellm_hooks.validation import nearest, validate


def wrong_settings(start: Start) -> Iterator[Finding]:
    """What a start says of the settings. Policies are imported and made."""
    callback_settings = start.source.values.get("callback_settings")
    if callback_settings is not None and not isinstance(callback_settings, Mapping):
        yield start.finding("callback_settings", "should be a mapping of keys to values")
        return
    given = mapping(resolved(start.section("callback_settings"), start.environment))
    if given.get("luthien") is None and not start.environment.get(POLICY_FILE_VARIABLE):
        if is_named(start) or not any(start.guardrails()):
            yield _lost(start)
        return
    for key, what in _problems(given, start):
        yield start.finding(key, what)


def _problems(callback_settings: Mapping[str, object], start: Start) -> Iterator[tuple[str, str]]:
    """What a start says; and what it would say next, were that mended."""
    try:
        build_executor(load_settings(callback_settings, start.environment), start.environment)
    except ConfigError as error:
        yield from error.problems
        for key, spec in start.policies():
            yield from _policy_problems(key, mapping(resolved(spec, start.environment)))


def _policy_problems(key: str, spec: Mapping[str, object]) -> Sequence[tuple[str, str]]:
    """What is wrong with a policy's class or config, whatever is wrong beside them."""
    if spec.get("class") in (None, *COMPOSITIONS):
        return ()
    own = {name: value for name, value in spec.items() if name in ("class", "config")}
    try:
        load_composition(validate(PolicySpec, own, key), key)
    except ConfigError as error:
        return error.problems
    return ()


def _lost(start: Start) -> Finding:
    """Nothing stands where LiteLLM looks for the plugin's settings; perhaps they stand elsewhere."""
    found = next(_elsewhere(start), None)
    if found:
        return start.finding(found, f"LiteLLM does not look for the plugin's settings here: write {SETTINGS_KEY}")
    what = f"no policy is set: write {SETTINGS_KEY}.policy, or name a file in {POLICY_FILE_VARIABLE}"
    return start.finding(SETTINGS_KEY, what)


def _elsewhere(start: Start) -> Iterator[str]:
    given = start.section("callback_settings")
    if "policy" in given:
        yield "callback_settings.policy"
    if "callback_settings" in start.section("litellm_settings"):
        yield "litellm_settings.callback_settings"
    if "luthien" in start.source.values:
        yield "luthien"
    if near := nearest("luthien", given.keys() - {"luthien"}):
        yield f"callback_settings.{near}"
    if near := nearest("callback_settings", start.source.values.keys() - SECTIONS):
        yield near
