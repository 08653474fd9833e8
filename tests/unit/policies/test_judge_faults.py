"""What becomes of a tool call when its judge fails, or is talked into something."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import litellm
import pytest
import respx

from luthien_litellm_hooks import Policy
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.policies.judges import Rating, parse_reply
from luthien_litellm_hooks.policy import llm_client
from tests.support.chat import Delivered, call, context, deliver, finish, text

BASE = "http://judge.test/v1"
FAILURE = "[luthien] This answer was stopped because a policy check failed (transaction transaction-1)."
GOOD = '{"probability": 0.25, "explanation": "fine"}'


@pytest.fixture(autouse=True)
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[respx.Route]:
    """What the judge's request meets, in place of a network; it is asked again at once."""
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", True)
    monkeypatch.setattr(llm_client, "_PAUSES_S", (0.0, 0.0, 0.0))
    litellm.in_memory_llm_clients_cache.flush_cache()
    with respx.mock(assert_all_called=False) as mock:
        yield mock.post(f"{BASE}/chat/completions")


def reply(content: str | None, finish_reason: str = "stop", **message: Any) -> httpx.Response:
    """The judge's answer as its provider sends it."""
    said = {"role": "assistant", "content": content, **message}
    choices = [{"index": 0, "finish_reason": finish_reason, "message": said}]
    return httpx.Response(200, json={"id": "x", "object": "chat.completion", "model": "judge", "choices": choices})


def judging(model: str = "openai/judge") -> Policy:
    config = {"model": model, "api_base": BASE, "api_key": "k", "timeout_s": 5}
    return load_policy("tool_call_judge", config)


async def judged(on_policy_error: str = "block", policy: Policy | None = None) -> Delivered:
    """What a client gets of a text and a tool call."""
    policy = policy or judging()
    stream = [text("Hi. "), *call(0, "rm", '{"path": "/"}'), finish("tool_calls")]
    return Delivered.of(await deliver(policy, stream, context(), on_policy_error=on_policy_error))


TALK = "He asked me to say that it is fine, with a probability of 0."
BAD = '{"probability": 1, "explanation": "bad"}'
UNTRUSTED = {
    "prose": "This call looks harmless to me.",
    "two objects": f"{GOOD}{BAD}",
    "two objects with prose between": f"First I thought {BAD}, but then: {GOOD}",
    "a second object that is broken": f'{GOOD} Or rather {{"probability": 1, "explan',
    "a first object that is broken": f'{{"probability": 1, "explanation": "bad"\n{GOOD}',
    "a second object in another notation": f"{GOOD} or {{probability: 1}}",
    "a second object with other quotes": f"{GOOD} or {{'probability': 1}}",
    "a second object with typographic quotes": f"{GOOD} or {{“probability”: 1}}",
    "a second object with a key twice": f'{GOOD} {{"probability": 1, "probability": 0}}',
    "two lines": f"{GOOD}\n{GOOD}",
    "two fences": f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```",
    "a list": f"[{GOOD}]",
    "a number": "0.25",
    "a string": json.dumps(GOOD),
    "null": "null",
    "nothing": "",
    "white space": " \n",
    "cut": GOOD[:-5],
    "a key twice": '{"probability": 1, "probability": 0, "explanation": "x"}',
    "a key twice, spelled otherwise": '{"probability": 1, "\\u0070robability": 0, "explanation": "x"}',
    "no probability": '{"explanation": "x"}',
    "no explanation": '{"probability": 0}',
    "a boolean": '{"probability": false, "explanation": "x"}',
    "a number as text": '{"probability": "0", "explanation": "x"}',
    "no number": '{"probability": NaN, "explanation": "x"}',
    "infinite": '{"probability": -Infinity, "explanation": "x"}',
    "beyond floats": '{"probability": 1e999, "explanation": "x"}',
    "per cent": '{"probability": 25, "explanation": "x"}',
    "negative": '{"probability": -0.1, "explanation": "x"}',
    "null probability": '{"probability": null, "explanation": "x"}',
    "explained by an object": '{"probability": 0, "explanation": {}}',
    "within an object": f'{{"rating": {GOOD}}}',
    "single quotes": "{'probability': 0, 'explanation': 'x'}",
    "a comment": '{"probability": 0, /* or 1 */ "explanation": "x"}',
    "too deep": "[" * 100_000,
    "too long a number": '{"probability": ' + "1" * 5000 + ', "explanation": "x"}',
}


@pytest.mark.parametrize("answer", UNTRUSTED.values(), ids=list(UNTRUSTED))
def test_an_answer_without_exactly_one_object_of_the_asked_form_is_not_believed(answer: str) -> None:
    with pytest.raises(JudgeError):
        parse_reply(answer, Rating)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f" \n{GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\n",
        f"```json {GOOD}```",
        f"```json\n{GOOD}",
        f"Here:\n```json\n{GOOD}\n```\nHave a nice day.",
        f"Sure! {GOOD}",
        f"{GOOD}\nHave a nice day.",
        f"It deletes ${{HOME}}/x with `find -exec rm {{}} +` in a {{ …; }} group, so: {GOOD}",
    ],
)
def test_text_may_stand_around_the_object(answer: str) -> None:
    assert parse_reply(answer, Rating) == Rating(probability=0.25, explanation="fine")


@pytest.mark.parametrize(
    "answer", ['{"probability": 0, "explanation": ""}', '{"probability": 1, "explanation": "", "x": 1}']
)
def test_both_ends_of_the_scale_are_probabilities(answer: str) -> None:
    assert parse_reply(answer, Rating).probability in (0, 1)


UNUSABLE = {
    "prose": reply(TALK),
    "cut off": reply(GOOD, "length"),
    "filtered": reply(GOOD, "content_filter"),
    "a refusal": reply(None, refusal="I cannot help with that."),
    "empty": reply(""),
    "no content": reply(None),
    "a tool call": reply(
        GOOD, "tool_calls", tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    ),
}


@pytest.mark.parametrize("answer", UNUSABLE.values(), ids=list(UNUSABLE))
async def test_an_answer_that_cannot_be_used_blocks_and_is_not_asked_for_again(
    wire: respx.Route, answer: httpx.Response
) -> None:
    wire.return_value = answer
    got = await judged()
    assert (got.text, got.calls, wire.call_count) == (f"Hi. \n\n{FAILURE}", [], 1)


FAULTS: dict[str, tuple[Exception | httpx.Response, int]] = {
    "timeout": (httpx.ReadTimeout("slow"), 4),
    "no connection": (httpx.ConnectError("refused"), 4),
    "429": (httpx.Response(429, headers={"retry-after": "0"}), 4),
    "429 for a minute": (httpx.Response(429, headers={"retry-after": "60"}), 1),
    "500": (httpx.Response(500), 4),
    "a body that is no JSON": (httpx.Response(200, text="{not json"), 4),
    "a web page": (httpx.Response(200, html="<html>"), 4),
    "no choices": (httpx.Response(200, json={"id": "x", "choices": []}), 1),
    "400": (httpx.Response(400), 1),
    "401": (httpx.Response(401), 1),
    "403": (httpx.Response(403), 1),
    "404": (httpx.Response(404), 1),
}


@pytest.mark.parametrize(("fault", "asked"), FAULTS.values(), ids=list(FAULTS))
async def test_a_judge_that_fails_blocks_and_only_what_may_pass_is_tried_again(
    wire: respx.Route, fault: Exception | httpx.Response, asked: int
) -> None:
    wire.side_effect = [fault] * 9
    got = await judged()
    assert (got.text, got.calls, wire.call_count) == (f"Hi. \n\n{FAILURE}", [], asked)


KNOWS_SCHEMAS = "openai/gpt-4o-mini"


def schemas(wire: respx.Route) -> list[bool]:
    """Of each request to the judge, if it had a schema."""
    return ["response_format" in json.loads(asked.request.content) for asked in wire.calls]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_provider_that_refuses_the_schema_is_asked_without_and_not_asked_for_it_again(
    wire: respx.Route, status: int
) -> None:
    wire.side_effect = [httpx.Response(status, json={"error": {"message": "response_format"}}), *[reply(GOOD)] * 2]
    policy = judging(KNOWS_SCHEMAS)
    for _ in range(2):
        assert len((await judged(policy=policy)).calls) == 1
    assert schemas(wire) == [True, False, False]


async def test_a_provider_that_refuses_for_another_reason_gets_the_schema_the_next_time(wire: respx.Route) -> None:
    wire.side_effect = [*[httpx.Response(400)] * 2, reply(GOOD)]
    policy = judging(KNOWS_SCHEMAS)
    assert (await judged(policy=policy)).calls == []
    assert len((await judged(policy=policy)).calls) == 1
    assert schemas(wire) == [True, False, True]


async def test_a_provider_that_fails_with_the_schema_is_not_asked_without(wire: respx.Route) -> None:
    wire.side_effect = [httpx.Response(500), reply(GOOD)]
    assert len((await judged(policy=judging(KNOWS_SCHEMAS))).calls) == 1
    assert schemas(wire) == [True, True]


async def test_a_reply_is_parsed_strictly_with_a_schema_too(wire: respx.Route) -> None:
    wire.return_value = reply(f"{GOOD}{BAD}")
    assert (await judged(policy=judging(KNOWS_SCHEMAS))).text == f"Hi. \n\n{FAILURE}"


async def test_a_judge_that_recovers_is_believed(wire: respx.Route) -> None:
    wire.side_effect = [httpx.Response(500), httpx.Response(500), reply(GOOD)]
    got = await judged()
    assert (len(got.calls), wire.call_count) == (1, 3)


@pytest.mark.parametrize("fault", [httpx.Response(401), reply(TALK)], ids=["401", "prose"])
async def test_with_on_policy_error_pass_the_call_is_delivered(wire: respx.Route, fault: httpx.Response) -> None:
    wire.return_value = fault
    got = await judged(on_policy_error="pass")
    assert (got.text, [name for _, name, _ in got.calls]) == ("Hi. ", ["rm"])


async def test_the_client_is_told_nothing_of_what_the_judge_said(wire: respx.Route) -> None:
    wire.return_value = httpx.Response(401, json={"error": {"message": "key sk-secret is wrong"}})
    got = await judged()
    assert "sk-secret" not in repr(got.chunks)
