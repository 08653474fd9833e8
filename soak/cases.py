"""What a soak's requests ask for, what goes wrong with them, and how each must end."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from luthien_litellm_hooks.testing.answers import Answer, Call, Cut, Gate, Say, Wait

HEADER = "x-soak"
"""The policy that a request is for."""

Leaving = Literal["never", "mid-stream", "before the first byte"]


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of request. `provider` and `policy` are names below; `outcome` is what its record says, `said` what
    the client must have got of it, `status` the HTTP status if no stream has begun."""

    name: str
    provider: str
    policy: str
    outcome: str
    said: str = ""
    leaves: Leaving = "never"
    is_error: bool = False
    is_streamed: bool | None = None
    """None for both."""


class Pause(Gate):
    """Opens by itself, for each who comes."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def passed(self) -> None:
        await asyncio.sleep(self._seconds)


TEXT = "The orchid blooms in the valley, and nobody is there to see it. " * 4
_NOTICE = "a policy check failed"
_FINE = '{"probability": 0.1, "explanation": "fine"}'
_BAD = '{"probability": 0.9, "explanation": "bad"}'

CASES = (
    Case("passes", "says", "noop", "complete", "orchid"),
    Case("passes, long", "says more", "noop", "complete", "orchid"),
    Case("no policy is for it", "says", "none", "complete", "orchid"),
    Case("text is replaced", "says", "replacing", "complete", "tulips"),
    Case("a call passes the rules", "calls", "rules", "complete", "look_around"),
    Case("a call is withheld by rules", "calls badly", "rules", "blocked", "withheld by rule"),
    Case("a call passes the judge", "calls", "judge", "complete", "look_around"),
    Case("a call is withheld by the judge", "calls", "strict judge", "blocked", "withheld by judge"),
    Case("two policies in turn", "calls", "serial", "complete", "tulips"),
    Case("a panel votes", "calls", "parallel", "complete", "look_around"),
    Case("the judge is down", "calls", "broken judge", "policy_error", _NOTICE),
    Case("the judge is down, passed over", "calls", "broken judge, pass", "policy_error", "look_around"),
    Case("the policy raises", "says", "raises", "policy_error", _NOTICE),
    Case("the policy raises, passed over", "says", "raises, pass", "policy_error", "orchid"),
    Case("the policy hangs", "says", "hangs", "timeout", _NOTICE),
    Case("the policy hangs, passed over", "says", "hangs, pass", "timeout", "orchid"),
    Case("the provider fails", "fails", "replacing", "provider_error", is_error=True),
    Case("the provider breaks off", "breaks off", "noop", "provider_error", is_error=True, is_streamed=True),
    Case("the provider breaks off, held", "breaks off", "judge", "provider_error", is_error=True, is_streamed=True),
    Case("the provider is slow", "is slow", "replacing", "complete", "tulips"),
    Case("the client leaves", "is slow", "replacing", "client_disconnected", leaves="mid-stream", is_streamed=True),
    Case(
        "the client leaves a held call",
        "calls",
        "slow judge",
        "client_disconnected",
        leaves="mid-stream",
        is_streamed=True,
    ),
    Case(
        "the client leaves early",
        "is late",
        "noop",
        "client_disconnected",
        leaves="before the first byte",
        is_streamed=False,
    ),
)

ANSWERS: Mapping[str, Answer] = {
    "says": Answer([Say(TEXT)], piece=24),
    "says more": Answer([Say(TEXT * 20)], piece=24),
    "calls": Answer([Say(TEXT), Call("look_around", '{"where": "here"}')], piece=24),
    "calls badly": Answer([Say(TEXT), Call("bash", '{"command": "rm -rf /"}')], piece=24),
    "fails": Answer([Say("overloaded")], status=500),
    "breaks off": Answer([Say(TEXT), Wait(Pause(0.1)), Cut()], piece=24),
    "is slow": Answer([Say(TEXT), Wait(Pause(1.0)), Say(TEXT)], piece=24),
    "is late": Answer([Wait(Pause(2.0)), Say(TEXT)], piece=24),
}

# LiteLLM streams Responses only of models whose price it knows.
MODELS: Mapping[str, Mapping[str, str]] = {
    "openai": dict(
        zip(
            ANSWERS,
            ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4-turbo", "gpt-4", "gpt-5"),
            strict=True,
        )
    ),
    "anthropic": dict(
        zip(
            ANSWERS,
            (
                "claude-haiku-4-5",
                "claude-sonnet-4-5",
                "claude-sonnet-4-6",
                "claude-opus-4-5",
                "claude-opus-4-6",
                "claude-opus-4-7",
                "claude-opus-4-8",
                "claude-opus-5",
            ),
            strict=True,
        )
    ),
}

JUDGES: Mapping[str, Answer] = {
    "judge": Answer([Wait(Pause(0.2)), Say(_FINE)]),
    "strict-judge": Answer([Wait(Pause(0.2)), Say(_BAD)]),
    "slow-judge": Answer([Wait(Pause(5.0)), Say(_FINE)]),
    "broken-judge": Answer([Say("out of order")], status=500),
}


def scripted() -> dict[str, Answer]:
    """What the provider answers, by its model's name."""
    answers = {model: ANSWERS[name] for models in MODELS.values() for name, model in models.items()}
    return {**answers, **JUDGES}


def settings(provider_url: str) -> dict[str, Any]:
    """Settings of the plugin: each policy is for the requests whose header names it."""

    def judge(model: str) -> dict[str, Any]:
        config = {"model": f"openai/{model}", "api_base": f"{provider_url}/v1", "api_key": "k"}
        return {"class": "tool_call_judge", "config": {**config, "message": "withheld by judge"}}

    rules = [{"action": "block", "commands": ["rm -rf"], "message": "withheld by rule"}]
    replacing = {"class": "string_replacement", "config": {"replacements": [["orchid", "tulips"]]}}
    raises, hangs = {"class": "soak.policies:Raises"}, {"class": "soak.policies:Hangs", "timeout_s": 0.5}
    policies: dict[str, dict[str, Any]] = {
        "noop": {"class": "noop"},
        "replacing": replacing,
        "rules": {"class": "tool_rules", "config": {"rules": rules}},
        "judge": judge("judge"),
        "strict judge": judge("strict-judge"),
        "slow judge": judge("slow-judge"),
        "broken judge": judge("broken-judge"),
        "broken judge, pass": {**judge("broken-judge"), "on_policy_error": "pass"},
        "raises": raises,
        "raises, pass": {**raises, "on_policy_error": "pass"},
        "hangs": hangs,
        "hangs, pass": {**hangs, "on_policy_error": "pass"},
        "serial": {"class": "serial", "config": {"policies": [replacing, judge("judge")]}},
        "parallel": {
            "class": "parallel",
            "config": {"strategy": "majority", "policies": [judge("judge"), judge("strict-judge"), {"class": "noop"}]},
        },
    }
    members = [{**policy, "when": {"headers": {HEADER: name}}} for name, policy in policies.items()]
    return {"policy": {"class": "serial", "config": {"policies": members}}}


def mix() -> Sequence[tuple[Case, str, bool]]:
    """Each case on each route, streamed and full."""
    return [
        (case, route, is_streamed)
        for case in CASES
        for route in ("chat", "messages", "responses")
        for is_streamed in (True, False)
        if case.is_streamed in (None, is_streamed)
    ]
