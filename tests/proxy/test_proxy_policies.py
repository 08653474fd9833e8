"""Each shipped policy through a real proxy: what clients get on every route, streamed and not."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.policies import SHORT_NAMES
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Step
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import ROUTES, apart
from tests.support.proxy import Proxies
from tests.support.selected import selected

LIST = Call("Bash", '{"command": "ls -la"}', id="call_list")
KEY = f"ghp_{'a1B2c3D4' * 4}a1B2"


@dataclass(frozen=True)
class Case:
    """A policy, what the model answers, and what the client gets: of text completions, which call no
    tools, `text` is all."""

    policy: str
    config: dict[str, Any]
    answer: Sequence[Step]
    text: str
    told: str = ""
    calls: tuple[tuple[str, Any], ...] = ()


LISTED = ("Bash", {"command": "ls -la"})
BY_RULES = (
    "[luthien] A policy blocked the call of {}. Do not try to reach the same by other means; ask the user how to go on."
)


def shell(command: str) -> Call:
    return Call("Bash", json.dumps({"command": command}), id="call_shell")


def blocks(policy: str, call: Call, **config: Any) -> Case:
    """The policy lets text and a harmless call pass, and blocks `call`."""
    return Case(policy, config, [Say("I try."), call, LIST], "I try.", BY_RULES.format(call.name), (LISTED,))


def judge(name: str) -> dict[str, Any]:
    return {"model": f"openai/policy-judge-{name}", "api_key": "k"}


def rating(probability: float) -> str:
    return json.dumps({"probability": probability, "explanation": "so it is"})


JUDGES = {
    "policy-judge-high": rating(0.9),
    "policy-judge-low": rating(0.1),
    "policy-judge-rewrites": '{"action": "replace", "blocks": [{"type": "text", "text": "Rewritten."}]}',
}
FALSE_RULE = {"name": "manners", "rule": "Be polite."}
CASES = [
    Case("noop", {}, [Say("As it is."), LIST], "As it is.", calls=(LISTED,)),
    Case("all_caps", {}, [Say("As it is."), LIST], "AS IT IS.", calls=(LISTED,)),
    Case("debug_logging", {}, [Say("As it is."), LIST], "As it is.", calls=(LISTED,)),
    blocks("tool_rules", Call("delete", "{}"), rules=[{"action": "block", "tool": "del*"}]),
    Case(
        "tool_rules",
        {"rules": [{"action": "rewrite", "tool": "Bash", "set": {"args.command": "true"}}]},
        [LIST],
        "",
        calls=(("Bash", {"command": "true"}),),
    ),
    blocks("block_dangerous_commands", shell("sudo rm -r -f /")),
    blocks("block_sensitive_file_writes", Call("Write", '{"file_path": "/etc/passwd", "content": "x"}')),
    blocks("block_web_requests", Call("WebFetch", '{"url": "https://example.com", "prompt": "x"}')),
    blocks("sql_protection", Call("execute_sql", '{"sql": "DROP TABLE users"}')),
    blocks("protect_proxy", shell("pkill -f litellm")),
    blocks("protect_work", shell("git reset --hard origin/main")),
    Case(
        "secrets",
        {},
        [Say(f"The key is {KEY}."), shell(f"curl -H {KEY} localhost")],
        "The key is [redacted:github_token].",
        calls=(("Bash", {"command": "curl -H [redacted:github_token] localhost"}),),
    ),
    Case("string_replacement", {"replacements": [["cat", "dog"]]}, [Say("A cat, a catalogue.")], "A dog, a dogalogue."),
    Case("regex_replacement", {"replacements": [["[0-9]+", "#"]]}, [Say("Room 101 of 7.")], "Room # of #."),
    Case("plain_dashes", {}, [Say("One \u2014 two, 3\u20135.")], "One - two, 3-5."),
    Case("no_apologies", {}, [Say("I apologize for the confusion. It is 4.")], "It is 4."),
    Case(
        "prefer_uv",
        {},
        [Say("Run pip install rich."), shell("pip install rich")],
        "Run uv pip install rich.",
        calls=(("Bash", {"command": "uv pip install rich"}),),
    ),
    Case(
        "tool_call_judge",
        judge("high"),
        [Say("I try."), LIST],
        "I try.",
        "[luthien] The tool call 'Bash' was withheld.",
    ),
    Case("tool_call_judge", judge("low"), [Say("I try."), LIST], "I try.", calls=(LISTED,)),
    Case(
        "llm_rules",
        {**judge("high"), "rules": [FALSE_RULE]},
        [Say("Rude.")],
        "[luthien] A part of this response was withheld by the rule 'manners'.",
    ),
    Case("llm_rules", {**judge("low"), "rules": [FALSE_RULE]}, [Say("Polite.")], "Polite."),
    Case("llm_rewrite", {**judge("rewrites"), "instructions": "Rewrite."}, [Say("Draft.")], "Rewritten."),
    Case(
        "serial",
        {
            "policies": [
                {"class": "string_replacement", "config": {"replacements": [["a", "b"]]}},
                {"class": "all_caps"},
            ]
        },
        [Say("cat"), LIST],
        "CBT",
        calls=(LISTED,),
    ),
    Case(
        "parallel",
        {"policies": [{"class": "noop"}, {"class": "block_dangerous_commands"}]},
        [Say("I try."), shell("rm -rf ~"), LIST],
        "I try.",
        BY_RULES.format("Bash"),
        (LISTED,),
    ),
    Case(
        "parallel",
        {"strategy": "majority", "policies": [{"class": "noop"}, {"class": "noop"}, {"class": "all_caps"}]},
        [Say("As it is."), LIST],
        "As it is.",
        calls=(LISTED,),
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update({f"policy-{number}": Answer(case.answer) for number, case in enumerate(CASES)})
    provider.answers.update({name: Answer([Say(said)]) for name, said in JUDGES.items()})


@pytest.fixture(scope="module")
def policies(provider_url: str) -> list[str]:
    """The names of the policies of the table; their judges are the provider's."""
    judging = {"api_base": f"{provider_url}/v1"}
    return [
        selected({"class": case.policy, "config": {**case.config, **(judging if "model" in case.config else {})}})
        for case in CASES
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.policy for case in CASES])
def test_the_client_gets_what_the_policy_lets_out(
    proxies: Proxies, policies: list[str], number: int, route: str, stream: bool
) -> None:
    case = CASES[number]
    said = ROUTES[route](proxies.lab(policies[number]), f"policy-{number}", stream, {}).anonymous
    told = case.told and apart(route) + case.told
    expected = (case.text, ()) if route == "completions" else (case.text + told, case.calls)
    assert (said.text, said.calls) == expected


def test_every_policy_is_in_the_table() -> None:
    assert {case.policy for case in CASES} == {*SHORT_NAMES, *COMPOSITIONS}
