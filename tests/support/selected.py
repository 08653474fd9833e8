"""Policies of one proxy among which a request's header selects, as `when` of the config does it for anybody."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

HEADER = "x-lab"
_POLICIES: dict[str, dict[str, Any]] = {}
MODELS: dict[str, str] = {}
"""The lab's own model groups beside the wildcards of each wire, and the model of the provider that each stands for."""
ALIASES: dict[str, str] = {}
FALLBACKS: dict[str, list[str]] = {}
RETRIES: dict[str, int] = {}
"""Of model groups. A module whose models are special adds to these when it is imported."""


def selected(policy: Mapping[str, Any]) -> str:
    """Gives the lab this policy, if it has not got it, and returns the name by which a request selects it."""
    name = hashlib.sha256(yaml.safe_dump(dict(policy)).encode()).hexdigest()[:12]
    when = {**policy.get("when", {})}
    _POLICIES[name] = {**policy, "when": {**when, "headers": {**when.get("headers", {}), HEADER: name}}}
    return name


def selected_in_a_row(policies: list[dict[str, Any]]) -> str:
    return selected({"class": "serial", "config": {"policies": policies}})


def settings() -> dict[str, Any]:
    """The plugin's settings with all policies that were given to the lab until now."""
    return {"policy": {"class": "serial", "config": {"policies": [*_POLICIES.values()]}}}


def router_settings() -> dict[str, Any]:
    return {
        "num_retries": 0,
        "disable_cooldowns": True,
        "model_group_alias": ALIASES,
        "fallbacks": [{group: others} for group, others in FALLBACKS.items()],
        "model_group_retry_policy": {group: {"InternalServerErrorRetries": count} for group, count in RETRIES.items()},
    }


NOOP = selected({"class": "noop"})
ALL_CAPS = selected({"class": "all_caps", "config": {"tool_arguments": True}})
LAB = selected({"class": "tests.support.lab:Lab"})

FAILURE = "[luthien] This answer was stopped because a policy check failed "
OWN_ANSWERS = (
    ("refuse request", r"This request is refused\."),
    ("answer", r"answered by the policy"),
    ("fail on request", re.escape(FAILURE) + r"\(transaction [\w-]+\)\."),
)
"""Requests' users for which the lab's policy answers by itself, each with the pattern of that answer."""
