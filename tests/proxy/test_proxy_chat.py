"""Chat completions through a real proxy, with the official client: what a client gets under each policy."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Cut, Gate, Say, Think, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support import selected
from tests.support.chat import Delivered
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import ALL_CAPS, FAILURE, LAB, NOOP, OWN_ANSWERS

THREE_CALLS = (
    Call("search", '{"query": "weather in Paris", "limit": 3}', id="call_a"),
    Call("read", '{"path": "/tmp/x"}', id="call_b"),
    Call("noop", "{}", id="call_c"),
)
ANSWERS = {
    "text": Answer([Say("The quick brown fox: über alles")]),
    "reasoning": Answer([Think("step by step", signature="sig"), Say("The answer.")]),
    "call": Answer([Call("search", '{"query": "weather in Paris"}', id="call_a")]),
    "calls": Answer([Say("Three calls."), *THREE_CALLS]),
    "interleaved": Answer(list(THREE_CALLS), interleave=True),
    "length": Answer([Say("cut off")], finish="length"),
    "broken-arguments": Answer([Call("search", '{"query": "wea', id="call_a")], finish="length"),
}
WIRES = ("openai", "anthropic")
CASES = [(wire, name) for wire in WIRES for name in ANSWERS if (wire, name) != ("anthropic", "broken-arguments")]


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update(ANSWERS)


def request(model: str, content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def raw(proxy: Proxy, body: dict[str, Any]) -> str:
    """The bytes that a client gets, but for ids and times of LiteLLM's own making."""
    response = proxy.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return re.sub(r'"id":"chatcmpl-[\w-]+"|"created":\d+', "", response.text)


@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize(("wire", "name"), CASES)
def test_noop_gives_what_the_stock_proxy_gives(proxies: Proxies, wire: str, name: str, mode: dict[str, Any]) -> None:
    body = request(f"{wire}/{name}", **mode)
    stock, governed = raw(proxies.lab(None), body), raw(proxies.lab(NOOP), body)
    assert governed == stock
    assert len(stock) > 100


def ask(proxy: Proxy, body: dict[str, Any], stream: bool) -> dict[str, Any]:
    """What a client gets, the same of a full and a streamed answer."""
    if not stream:
        return plain(proxy.openai.chat.completions.create(**body))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    delivered = Delivered.of(proxy.openai.chat.completions.create(**body, **options))
    usage = getattr(delivered.chunks[-1], "usage", None)
    return {
        "text": delivered.text,
        "reasoning": delivered.reasoning or None,
        "calls": delivered.calls,
        "finish": "".join(delivered.finish_reasons),
        "usage": usage and (usage.prompt_tokens, usage.completion_tokens),
    }


def plain(completion: Any) -> dict[str, Any]:
    message, [choice] = completion.choices[0].message, completion.choices
    return {
        "text": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None),
        "calls": [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()],
        "finish": choice.finish_reason,
        "usage": completion.usage and (completion.usage.prompt_tokens, completion.usage.completion_tokens),
    }


def upper_strings(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value.upper() if isinstance(value, str) else value for key, value in arguments.items()}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "name"), CASES)
def test_all_caps_changes_text_and_arguments_and_nothing_else(
    proxies: Proxies, wire: str, name: str, stream: bool
) -> None:
    body = request(f"{wire}/{name}")
    stock = ask(proxies.lab(None), body, stream)
    shouted = ask(proxies.lab(ALL_CAPS), body, stream)
    assert shouted["text"] == stock["text"].upper()
    assert [call[:2] for call in shouted["calls"]] == [call[:2] for call in stock["calls"]]
    if name == "broken-arguments":
        assert shouted["calls"] == stock["calls"]
    else:
        came, left = ([json.loads(call[2]) for call in answer["calls"]] for answer in (stock, shouted))
        assert left == [upper_strings(arguments) for arguments in came]
    rest = ("reasoning", "finish", "usage")
    assert {key: shouted[key] for key in rest} == {key: stock[key] for key in rest}


@pytest.mark.parametrize("name", ["text", "reasoning", "call", "calls", "interleaved"])
@pytest.mark.parametrize("policy", [NOOP, ALL_CAPS], ids=["noop", "all_caps"])
def test_the_official_clients_own_accumulator_reads_the_stream(proxies: Proxies, policy: str, name: str) -> None:
    body = request(f"openai/{name}")
    with proxies.lab(policy).openai.chat.completions.stream(**body) as events:
        streamed = events.get_final_completion()
    full = proxies.lab(policy).openai.chat.completions.create(**body)
    assert {**plain(streamed), "usage": None} == {**plain(full), "usage": None}


# Beside the content


TOKEN = "AKIAQYLPMN5HHHFPZAM2"
SECRETS = selected.selected({"class": "secrets"})
REFUSED = {"role": "assistant", "content": None, "refusal": f"I cannot print {TOKEN}."}


def raw_answer(choice: dict[str, Any], *, stream: bool) -> Answer:
    """A provider's response with one choice, of fields that `Answer` has no words for."""
    body = {
        "id": "chatcmpl-f",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", **choice}],
    }
    if not stream:
        return Answer(raw=json.dumps({**body, "object": "chat.completion"}).encode())
    written = json.dumps({**body, "object": "chat.completion.chunk"})
    return Answer(raw=f"data: {written}\n\ndata: [DONE]\n\n".encode())


@pytest.mark.parametrize("stream", [False, True], ids=["full", "streamed"])
def test_a_refusal_is_judged_and_stays_a_refusal(proxies: Proxies, provider: ScriptedProvider, stream: bool) -> None:
    name = f"refused-{stream}"
    provider.answers[name] = raw_answer({"delta" if stream else "message": REFUSED}, stream=stream)
    response = proxies.lab(SECRETS).http.post("/v1/chat/completions", json=request(f"openai/{name}", stream=stream))
    assert response.status_code == 200, response.text
    assert TOKEN not in response.text
    pieces = re.findall(r'"refusal":\s*"([^"]*)"', response.text)
    assert re.fullmatch(r"I cannot print \[[^\]]+\]\.", "".join(pieces)), response.text


# Requests


def test_the_provider_gets_the_request_as_the_policy_rewrote_it(proxies: Proxies, provider: ScriptedProvider) -> None:
    body = request("openai/scripted", "say: original", user="rewrite request", seed=7)
    answer = proxies.lab(LAB).openai.chat.completions.create(**body)
    assert answer.choices[0].message.content == "rewritten"
    seen = provider.requests[-1].body
    assert seen["messages"] == [{"role": "user", "content": "say: rewritten"}]
    assert (seen["temperature"], seen["seed"]) == (0.5, 7)


def test_a_request_edited_in_place_is_rewritten_too(proxies: Proxies, provider: ScriptedProvider) -> None:
    body = request("openai/scripted", "say: original", user="edit in place")
    answer = proxies.lab(LAB).openai.chat.completions.create(**body)
    assert answer.choices[0].message.content == "edited"


def test_the_provider_does_not_get_what_the_policy_took_out(proxies: Proxies, provider: ScriptedProvider) -> None:
    body = request("openai/scripted", user="remove field", temperature=0.7)
    proxies.lab(LAB).openai.chat.completions.create(**body)
    assert "temperature" not in provider.requests[-1].body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("user", "expected"), OWN_ANSWERS)
def test_a_policy_answers_in_the_providers_stead(
    proxies: Proxies, provider: ScriptedProvider, user: str, expected: str, wire: str, stream: bool
) -> None:
    before = len(provider.requests)
    answer = ask(proxies.lab(LAB), request(f"{wire}/text", user=user), stream)
    assert re.fullmatch(expected, answer["text"])
    assert (answer["finish"], answer["usage"]) == ("stop", None if stream else (0, 0))
    assert len(provider.requests) == before, "the provider must not be called"


CACHE = {"cache": True, "cache_params": {"type": "local"}}


@pytest.mark.parametrize("stream", [False, True])
def test_a_cached_answer_is_governed_and_a_refusal_never_becomes_one(
    proxies: Proxies, provider: ScriptedProvider, stream: bool
) -> None:
    proxy, flag = proxies.lab(LAB, **CACHE), proxies.flag
    body = request("openai/text", f"for the cache, {stream=}", user="refuse when flagged")
    before = len(provider.requests)
    model = ask(proxy, body, stream)["text"]
    flag.touch()
    refused = ask(proxy, body, stream)["text"]
    flag.unlink()
    again = ask(proxy, body, stream)["text"]
    assert (refused, again) == ("This request is refused.", model)
    assert len(provider.requests) == before + 1, "the last answer came from the cache"


@pytest.mark.parametrize("stream", [False, True])
def test_the_cache_holds_what_the_provider_said(proxies: Proxies, provider: ScriptedProvider, stream: bool) -> None:
    proxy = proxies.lab(ALL_CAPS, **CACHE)
    body = request("openai/calls", f"for the cache, {stream=}")
    before = len(provider.requests)
    first, second = ask(proxy, body, stream), ask(proxy, body, stream)
    assert first == second
    assert first["text"] == "THREE CALLS."
    assert len(provider.requests) == before + 1


# Answers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_policy_drops_all_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    answer = ask(proxies.lab(LAB), request(f"{wire}/calls", user="drop calls"), stream)
    assert (answer["text"], answer["calls"], answer["finish"]) == ("Three calls.", [], "stop")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_policy_renames_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    stock = ask(proxies.lab(None), request(f"{wire}/calls"), stream)
    answer = ask(proxies.lab(LAB), request(f"{wire}/calls", user="rename calls"), stream)
    renamed = [(id, f"safe_{name}", arguments) for id, name, arguments in stock["calls"]]
    assert answer == {**stock, "calls": renamed}


@pytest.mark.parametrize("stream", [False, True])
def test_no_text_of_an_exception_reaches_a_client(proxies: Proxies, stream: bool) -> None:
    answer = ask(proxies.lab(LAB), request("openai/calls", user="fail on text"), stream)
    assert answer["text"].startswith(FAILURE)
    assert (answer["calls"], answer["finish"]) == ([], "stop")
    assert "secret" not in answer["text"]
    assert "secret of the policy" in proxies.lab(LAB).output, "the operator is told"


def test_text_sent_during_a_slow_hook_arrives_before_the_hook_ends(
    proxies: Proxies, provider: ScriptedProvider
) -> None:
    gate = Gate()
    provider.answers["gate"] = Answer([Wait(gate), Say("open")])
    stream = proxies.lab(LAB).openai.chat.completions.create(**request("openai/text", user="wait"), stream=True)
    texts = (chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content)
    assert next(texts) == "early"
    gate.wait_reached()
    gate.open()
    assert list(texts) == [" late"]


def test_a_client_that_leaves_is_noticed_at_the_provider(proxies: Proxies, provider: ScriptedProvider) -> None:
    gate = Gate()
    provider.answers["endless"] = Answer([Say("first words"), Wait(gate), Say("never")])
    before = len(provider.disconnects)
    with proxies.lab(LAB).openai.chat.completions.create(**request("openai/endless"), stream=True) as stream:
        next(iter(stream))
        gate.wait_reached()
    provider.disconnects.wait_for(before + 1)
    gate.open()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("user", ["pass", "hold"])
def test_a_providers_error_reaches_the_client_with_its_status_and_type(
    proxies: Proxies, provider: ScriptedProvider, user: str, stream: bool
) -> None:
    provider.answers["limited"] = Answer([Say("slow down")], status=429)
    body = request("openai/limited", user=user, stream=stream)
    stock, governed = (proxies.lab(which).http.post("/v1/chat/completions", json=body) for which in (None, LAB))
    assert (governed.status_code, _unsaid(governed)) == (stock.status_code, _unsaid(stock))
    assert stock.status_code == 429
    assert "slow down" not in governed.text


def _unsaid(response: Any) -> dict[str, Any]:
    return {name: value for name, value in response.json()["error"].items() if name != "message"}


def test_a_stream_that_the_provider_cuts_gives_nothing_away_that_was_held(
    proxies: Proxies, provider: ScriptedProvider
) -> None:
    provider.answers["cut"] = Answer([Say("not judged yet"), Cut()])
    body = request("openai/cut", user="hold", stream=True)
    response = proxies.lab(LAB).http.post("/v1/chat/completions", json=body)
    assert "judged" not in response.text
    assert '"error"' in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_two_requests_at_once_get_their_own_answers(proxies: Proxies, stream: bool) -> None:
    def ask_number(number: int) -> tuple[int, str]:
        body = request("openai/scripted", f"say: number {number}")
        return number, ask(proxies.lab(ALL_CAPS), body, stream)["text"]

    with ThreadPoolExecutor(20) as pool:
        assert all(answer == f"NUMBER {number}" for number, answer in pool.map(ask_number, range(60)))


def test_several_choices_are_all_governed(proxies: Proxies) -> None:
    answer = proxies.lab(ALL_CAPS).openai.chat.completions.create(**request("openai/text", n=3))
    assert [choice.message.content for choice in answer.choices] == ["THE QUICK BROWN FOX: ÜBER ALLES"] * 3


LAB_ERROR = {"policy": {"class": "tests.support.lab:Lab"}, "on_block": "error", "block_status": 451}


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_request_is_an_http_error_where_the_operator_says_so(
    proxies: Proxies, provider: ScriptedProvider, stream: bool
) -> None:
    before = len(provider.requests)
    body = request("openai/text", user="refuse request", stream=stream)
    response = proxies.get(LAB_ERROR).http.post("/v1/chat/completions", json=body)
    assert response.status_code == 451
    error = {"message": "This request is refused.", "type": "policy_error", "param": None, "code": "451"}
    assert response.json() == {"error": error}
    assert len(provider.requests) == before


def test_a_full_answer_that_is_ended_is_an_http_error_where_the_operator_says_so(proxies: Proxies) -> None:
    body = request("openai/text", user="fail on text")
    response = proxies.get(LAB_ERROR).http.post("/v1/chat/completions", json=body)
    assert response.status_code == 451
    assert response.json()["error"]["message"].startswith(FAILURE)
    assert "secret" not in response.text


def test_a_stream_that_is_ended_ends_with_the_notice_all_the_same(proxies: Proxies) -> None:
    answer = ask(proxies.get(LAB_ERROR), request("openai/text", user="fail on text"), stream=True)
    assert answer["text"].startswith(FAILURE)
    assert answer["finish"] == "stop"


OVERLOADED = "openai/overloaded"
selected.FALLBACKS[OVERLOADED], selected.RETRIES[OVERLOADED] = ["openai/text"], 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_hook_runs_once_however_often_the_request_is_tried(
    proxies: Proxies, provider: ScriptedProvider, stream: bool
) -> None:
    provider.answers["overloaded"] = Answer([Say("busy")], status=500)
    before = len(provider.requests)
    answer = ask(proxies.lab(LAB), request(OVERLOADED, "hello", user="count"), stream)
    assert answer["text"] == "The quick brown fox: über alles"
    tried = provider.requests[before:]
    assert [seen.body["model"] for seen in tried] == ["overloaded", "overloaded", "text"]
    assert {seen.body["messages"][-1]["content"] for seen in tried} == {"hello once"}
