"""What a config's settings refer to and that is not there: variables of the environment, models of the proxy."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import cast

from luthien_litellm_hooks.checking.source import Finding, Level
from luthien_litellm_hooks.checking.started import Start, items, mapping
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policies.judging import JudgeConfig
from luthien_litellm_hooks.policy_loading import COMPOSITIONS, config_model
from luthien_litellm_hooks.validation import nearest

_REFERENCE = re.compile(r"os\.environ/(.*)", re.DOTALL)


def unset(start: Start) -> Iterator[Finding]:
    """References to the environment for which LiteLLM would find nothing, and say nothing."""
    if start.section("general_settings").get("key_management_system"):
        return
    too_late = start.section("environment_variables")
    for section in start.settings():
        for key, value in _leaves(section.given, section.key):
            name = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if name and name[1] in too_late:
                message = f"LiteLLM looks for {name[1]} before it sets environment_variables: set it outside alone"
                yield start.finding(key, message)
            elif name and not start.environment.get(name[1]):
                yield start.finding(key, f"the environment variable {name[1]} is not set")


def resolved(given: object, environment: Mapping[str, str]) -> object:
    """`given` as LiteLLM hands it on: with the values of the environment that it refers to."""
    if isinstance(given, Mapping):
        members = cast(Mapping[str, object], given)
        return {key: resolved(value, environment) for key, value in members.items()}
    if isinstance(given, list):
        entries = items(cast(object, given))
        return [resolved(cast(object, item), environment) if isinstance(item, dict) else item for item in entries]
    name = _REFERENCE.fullmatch(given) if isinstance(given, str) else None
    return environment.get(name[1]) if name else given


def unknown_judges(start: Start) -> Iterator[Finding]:
    """Judges that are to be models of this proxy, which has none of that name."""
    served = list(_served_models(start))
    for key, spec in start.policies():
        config = mapping(spec.get("config"))
        model = config.get("model")
        if config.get("model_group") is not True or not isinstance(model, str) or not _is_judge(spec.get("class")):
            continue
        if not any(fnmatchcase(model, name) for name in served):
            near = nearest(model, served)
            hint = f"; did you mean {near!r}?" if near else ""
            message = f"no entry of model_list has the model_name {model!r}{hint}"
            yield start.finding(f"{key}.config.model", message, _level(start))


def _served_models(start: Start) -> Iterator[str]:
    for entry in items(start.source.values.get("model_list")):
        yield str(mapping(entry).get("model_name"))
    yield from map(str, mapping(start.section("router_settings").get("model_group_alias")))


def _level(start: Start) -> Level:
    """Models may also come from LiteLLM's database."""
    in_database = start.section("general_settings").get("store_model_in_db") is True
    return "warning" if in_database or start.environment.get("STORE_MODEL_IN_DB") == "True" else "error"


def _is_judge(name: object) -> bool:
    if not isinstance(name, str) or name in COMPOSITIONS:
        return False
    try:
        return issubclass(config_model(name), JudgeConfig)
    except ConfigError:  # which loading the policy tells
        return False


def _leaves(given: object, key: str) -> Iterator[tuple[str, object]]:
    """The values that LiteLLM looks at: not the texts in lists."""
    if isinstance(given, Mapping):
        for name, value in cast(Mapping[object, object], given).items():
            yield from _leaves(value, f"{key}.{name}")
    elif isinstance(given, list):
        for number, value in enumerate(items(cast(object, given))):
            if isinstance(value, dict):
                yield from _leaves(cast(object, value), f"{key}.{number}")
    else:
        yield key, given
