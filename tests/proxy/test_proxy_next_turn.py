"""Agents survive a blocked tool: the history that they send back is one that a provider accepts."""

from collections.abc import Iterator
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import Proxies
from tests.support.selected import LAB, selected

CALLS = (
    Call("search", '{"query": "x"}', id="call_a"),
    Call("read", '{"path": "/etc/shadow"}', id="call_b"),
    Call("write", '{"path": "/tmp/x"}', id="call_c"),
)
ANSWERS = {"turn-text-and-calls": Answer([Say("Let me see."), *CALLS]), "turn-calls": Answer(CALLS)}
DROPS = ("drop reads", "drop calls")


@pytest.fixture(autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update(ANSWERS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("name", ANSWERS)
def test_messages(proxies: Proxies, provider: ScriptedProvider, name: str, drop: str, stream: bool) -> None:
    client = proxies.lab(LAB).anthropic
    ask: list[Any] = [{"role": "user", "content": "go"}]
    body = {"model": f"anthropic/{name}", "max_tokens": 99, "extra_body": {"user": drop}}
    if stream:
        with client.messages.stream(messages=ask, **body) as events:
            answer = events.get_final_message()
    else:
        answer = client.messages.create(messages=ask, **body)
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert (answer.stop_reason == "tool_use") == bool(calls)
    results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "done"} for call in calls]
    content = [block.model_dump(exclude_none=True) for block in answer.content]
    client.messages.create(
        messages=[*ask, {"role": "assistant", "content": content}, {"role": "user", "content": results or "go on"}],
        **body,
    )
    assert list(_wrong_in_messages(provider.requests[-1].body["messages"])) == []


def _wrong_in_messages(messages: list[dict[str, Any]]) -> Iterator[str]:
    """What Anthropic refuses in a history."""
    for message, following in zip(messages, [*messages[1:], {}], strict=True):
        content = message["content"]
        if not content:
            yield "an empty message"
        if message["role"] != "assistant":
            continue
        kinds = [block["type"] for block in content]
        if "tool_use" in kinds and "text" in kinds[kinds.index("tool_use") :]:
            yield "text after a tool call"
        if any(block["type"] == "text" and not block["text"] for block in content):
            yield "an empty text"
        called = {block["id"] for block in content if block["type"] == "tool_use"}
        after = following.get("content") or []
        answered = {block["tool_use_id"] for block in after if isinstance(block, dict) and "tool_use_id" in block}
        if called != answered:
            yield f"calls {called} but results {answered}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("name", ANSWERS)
def test_chat(proxies: Proxies, provider: ScriptedProvider, name: str, drop: str, stream: bool) -> None:
    client = proxies.lab(LAB).openai
    ask: list[Any] = [{"role": "user", "content": "go"}]
    body: dict[str, Any] = {"model": f"openai/{name}", "user": drop}
    if stream:
        with client.chat.completions.stream(messages=ask, **body) as events:
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(messages=ask, **body).choices[0]
    calls = choice.message.tool_calls or []
    assert (choice.finish_reason == "tool_calls") == bool(calls)
    turn: dict[str, Any] = {"role": "assistant", "content": choice.message.content}
    if calls:
        turn["tool_calls"] = [call.model_dump(include={"id", "type", "function"}) for call in calls]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls]
    client.chat.completions.create(messages=[*ask, turn, *results, {"role": "user", "content": "go on"}], **body)
    sent = provider.requests[-1].body["messages"]
    assistant = next(message for message in sent if message["role"] == "assistant")
    assert assistant.get("content") or assistant.get("tool_calls"), "an empty message"
    called = {call["id"] for call in assistant.get("tool_calls") or ()}
    assert called == {message["tool_call_id"] for message in sent if message["role"] == "tool"}
    assert len(called) == (2 if drop == "drop reads" else 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("name", ANSWERS)
def test_responses(proxies: Proxies, provider: ScriptedProvider, name: str, drop: str, stream: bool) -> None:
    client = proxies.lab(LAB).openai
    ask: list[Any] = [{"role": "user", "content": "go"}]
    body: dict[str, Any] = {"model": f"openai/{name}", "user": drop}
    if stream:
        events = list(client.responses.create(input=ask, stream=True, **body))
        [answer] = [event.response for event in events if event.type == "response.completed"]
        done = [event.item for event in events if event.type == "response.output_item.done"]
        assert [item.model_dump() for item in done] == [item.model_dump() for item in answer.output]
    else:
        answer = client.responses.create(input=ask, **body)
    calls = [item for item in answer.output if item.type == "function_call"]
    assert len(calls) == (2 if drop == "drop reads" else 0)
    assert answer.output, "an agent can do nothing with an empty answer"
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in calls]
    turn = [item.model_dump(exclude_none=True) for item in answer.output]
    client.responses.create(input=[*ask, *turn, *results, {"role": "user", "content": "go on"}], **body)
    sent = provider.requests[-1].body["input"]
    called = {item["call_id"] for item in sent if item.get("type") == "function_call"}
    assert called == {item["call_id"] for item in sent if item.get("type") == "function_call_output"}
    assert "/etc/shadow" not in str(sent)


WITHHELD = selected({"class": "tool_rules", "config": {"rules": [{"action": "block", "tool": "delete"}]}})


@pytest.fixture
def one_of_three(provider: ScriptedProvider) -> str:
    """A model that makes three calls, of which the one in the middle is withheld."""
    calls = [Call(name, "{}", id=f"call_{name}") for name in ("read", "delete", "write")]
    provider.answers["one-of-three"] = Answer([Say("I do it."), *calls])
    return "anthropic/one-of-three"


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_takes_back_a_chat_in_which_a_notice_followed_a_call(
    proxies: Proxies, provider: ScriptedProvider, one_of_three: str, stream: bool
) -> None:
    client = proxies.lab(WITHHELD).openai
    ask: list[Any] = [{"role": "user", "content": "go"}]
    if stream:
        with client.chat.completions.stream(model=one_of_three, messages=ask) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(model=one_of_three, messages=ask).choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["read", "write"]
    assert "[luthien]" in message.content
    turn: Any = message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True)
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls]
    client.chat.completions.create(model=one_of_three, messages=[*ask, turn, *results])
    assert list(_wrong_in_messages(provider.requests[-1].body["messages"])) == []


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_takes_back_a_response_in_which_a_notice_followed_a_call(
    proxies: Proxies, provider: ScriptedProvider, one_of_three: str, stream: bool
) -> None:
    client = proxies.lab(WITHHELD).openai
    ask: list[Any] = [{"role": "user", "content": "go"}]
    if stream:
        with client.responses.stream(model=one_of_three, input=ask) as events:
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(model=one_of_three, input=ask)
    assert [item.type for item in answer.output] == ["message", "function_call", "message", "function_call"]
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["read", "write"]
    assert "[luthien]" in answer.output_text
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in calls]
    turn = [item.model_dump(exclude_none=True) for item in answer.output]
    client.responses.create(model=one_of_three, input=[*ask, *turn, *results])
    assert list(_wrong_in_messages(provider.requests[-1].body["messages"])) == []
