"""One policy, one request, one answer: the same decisions whatever the route, streamed or not."""

import json
from dataclasses import replace
from typing import Any

import pytest

from luthien_litellm_hooks import Decision, PolicyBlockedError, Request, SimplePolicy, ToolCall, ToolCallStreamBlock
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.testing.run import run_policy

TEXT_ALONE = Answer([Say("one secret, two")])
EVERYTHING = Answer(
    [
        Think("step by step", signature="sig"),
        Say("one secret, two"),
        Call("search", '{"q": 1}', id="call_a"),
        Call("delete", '{"path": "/"}', id="call_b"),
        Call("search", '{"q": 2}', id="call_c"),
    ]
)


class Mixed(SimplePolicy):
    """Changes text, drops one call, changes another."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return content.replace("secret", "***")

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        if tool_call.name == "delete":
            return None
        return replace(tool_call, arguments='{"q": 0}') if '"q": 2' in tool_call.arguments else tool_call


class Refuses(SimplePolicy):
    """Ends the answer at a call."""

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        if tool_call.name == "delete":
            raise PolicyBlockedError("No.", reason="it deletes")
        return tool_call


class Fails(SimplePolicy):
    """Breaks."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        raise KeyError("broken")


async def _decisions(policy: SimplePolicy, route: RouteName, answer: Answer, is_streamed: bool) -> list[Any]:
    outcome = await run_policy(policy, answer, route=route, full=not is_streamed)
    return [_record(decision) for decision in outcome.decisions]


def _record(decision: Decision) -> tuple[Any, ...]:
    block = decision.block
    said = (block.name, json.loads(block.arguments)) if isinstance(block, ToolCallStreamBlock) else None
    return (decision.policy, decision.action, type(block).__name__, said, decision.reason, decision.message)


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "full"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("policy", [Mixed(), Refuses(), Fails()], ids=lambda policy: type(policy).__name__)
async def test_the_decisions_are_those_of_chat(policy: SimplePolicy, route: RouteName, is_streamed: bool) -> None:
    answer = TEXT_ALONE if route == "completions" else EVERYTHING
    expected = await _decisions(policy, "chat", answer, is_streamed=True)
    assert await _decisions(policy, route, answer, is_streamed) == expected
    assert expected or (type(policy) is Refuses and answer is TEXT_ALONE)
