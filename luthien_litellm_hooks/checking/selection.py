"""Requests that may get by every policy: none is for them, or their sender can choose that one is not."""

from collections.abc import Iterator, Mapping

from luthien_litellm_hooks.checking.source import Finding
from luthien_litellm_hooks.checking.started import Start, items, mapping
from luthien_litellm_hooks.policy_loading import COMPOSITIONS

_CHOSEN: Mapping[str, str] = {
    "keys": "a user can choose the alias of a key of their own, and leave this policy: `teams` and `users` stay",
    "headers": "a client chooses its headers, and can leave this policy",
}


def leavable(start: Start) -> Iterator[Finding]:
    """Warnings about `when`."""
    for key, section, spec in start.governed():
        if _may_be_for_none(spec) and mapping(section.given).get("unselected") != "refuse":
            what = "a request may fit the `when` of no policy, and passes unjudged: `unselected: refuse` refuses it"
            yield start.finding(key, what, "warning")
    for key, spec in start.policies():
        for selector in mapping(spec.get("when")):
            if selector in _CHOSEN:
                yield start.finding(f"{key}.when.{selector}", _CHOSEN[selector], "warning")


def _may_be_for_none(spec: Mapping[str, object]) -> bool:
    if mapping(spec.get("when")):
        return True
    members = items(mapping(spec.get("config")).get("policies")) if spec.get("class") in COMPOSITIONS else []
    return bool(members) and all(_may_be_for_none(mapping(member)) for member in members)
