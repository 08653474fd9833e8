"""Check for policies that rewrite tool calls behind one that asks a person: the person saw another call."""

from collections.abc import Iterator, Mapping

from luthien_litellm_hooks.config.check.source import Finding, LaunchEnvironment, as_list, as_mapping
from luthien_litellm_hooks.policies import SHORT_NAMES

_PLACES = {place: name for name, place in SHORT_NAMES.items()}
_ONLY_IF_SET = frozenset({"all_caps", "string_replacement", "regex_replacement"})
"""Policies that rewrite arguments with `tool_arguments: true` alone."""
_ALWAYS = frozenset({"secrets", "prefer_uv"})
_MESSAGE = (
    "rewrites tool calls after {asking} has asked a person, who then approved another call: put it before that policy"
)


def check_asking(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Warns of policies in a `serial` that rewrite tool calls behind one that asks."""
    for key, spec in launch.policies():
        if _name(spec) != "serial":
            continue
        asking: str | None = None
        for number, member in enumerate(as_list(as_mapping(spec.get("config")).get("policies"))):
            member_key = f"{key}.config.policies.{number}"
            inner = list(_leaves(member_key, as_mapping(member)))
            if asking is not None:
                for one_key, _ in (pair for pair in inner if _rewrites(pair[1])):
                    yield launch.finding(one_key, _MESSAGE.format(asking=asking), "warning")
            asking = asking or next((_name(one) for _, one in inner if _asks(one)), None)


def _leaves(key: str, spec: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    if _name(spec) not in ("serial", "parallel"):
        yield key, spec
        return
    for number, member in enumerate(as_list(as_mapping(spec.get("config")).get("policies"))):
        yield from _leaves(f"{key}.config.policies.{number}", as_mapping(member))


def _name(spec: Mapping[str, object]) -> str:
    given = str(spec.get("class"))
    return _PLACES.get(given, given)


def _asks(spec: Mapping[str, object]) -> bool:
    """Tells whether a shipped policy may ask a person. Nothing is known of another."""
    if spec.get("enforce") is False:
        return False
    config = as_mapping(spec.get("config"))
    match _name(spec):
        case "tool_rules":
            return config.get("default") == "ask" or "ask" in _actions(config)
        case "tool_call_judge":
            return config.get("ask_at") is not None
        case "protect_work":
            return "ask" in config.values()
        case _:
            return False


def _rewrites(spec: Mapping[str, object]) -> bool:
    """Tells whether a shipped policy may change the arguments of a tool call."""
    name, config = _name(spec), as_mapping(spec.get("config"))
    if spec.get("enforce") is False or config.get("apply_to") == "request":
        return False
    if name == "tool_rules":
        return "rewrite" in _actions(config)
    if name == "llm_rewrite":
        return "tool_call" in as_list(config.get("applies_to", ["tool_call"]))
    return name in _ALWAYS or (name in _ONLY_IF_SET and config.get("tool_arguments") is True)


def _actions(config: Mapping[str, object]) -> set[object]:
    return {as_mapping(rule).get("action") for rule in as_list(config.get("rules"))}
