"""The scripted provider seen through the official clients, over real sockets."""

import json
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
import uvicorn
from google import genai
from google.genai.types import FinishReason, FunctionCall
from starlette.types import Receive, Scope, Send

from luthien_litellm_hooks.testing.answers import (
    SCRIPT_SIGNATURE,
    Answer,
    Call,
    Cut,
    Gate,
    Say,
    Think,
    Usage,
    Wait,
    parse_script,
)
from luthien_litellm_hooks.testing.provider import Log, ScriptedProvider, serve

TEXT = "The quick brown fox - über alles"
CALLS = [
    Call("search", '{"query": "weather in Paris"}'),
    Call("add", '{"a": 1, "b": 2}', id="fixed_id"),
    Call("noop", "{}"),
]


@dataclass(frozen=True)
class Served:
    """A running provider with a client of each kind."""

    provider: ScriptedProvider
    url: str
    openai: openai.OpenAI
    anthropic: anthropic.Anthropic
    genai: genai.Client

    def chat(self, content: Any = "hello", **options: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        create: Callable[..., Any] = self.openai.chat.completions.create
        return create(**{"model": "m", "messages": messages, **options})

    def message(self, content: Any = "hello", **options: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        create: Callable[..., Any] = self.anthropic.messages.create
        return create(**{"model": "m", "messages": messages, "max_tokens": 100, **options})


@pytest.fixture(scope="module")
def running() -> Generator[Served]:
    provider = ScriptedProvider()
    with (
        serve(provider) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, timeout=10) as openai_client,
        anthropic.Anthropic(base_url=url, api_key="key", max_retries=0, timeout=10) as anthropic_client,
        genai.Client(api_key="key", http_options={"base_url": url, "api_version": "v1beta"}) as genai_client,
    ):
        yield Served(provider, url, openai_client, anthropic_client, genai_client)


@pytest.fixture
def served(running: Served) -> Served:
    running.provider.answers.clear()
    running.provider.requests.clear()
    running.provider.disconnects.clear()
    return running


def _raw_request() -> dict[str, Any]:
    """A streaming request on either wire, for tests that look at the bytes."""
    return {"model": "m", "stream": True, "messages": []}


def _choice_deltas(chunks: Iterable[Any], index: int = 0) -> list[Any]:
    return [choice.delta for chunk in chunks for choice in chunk.choices if choice.index == index]


def _streamed_text(chunks: Iterable[Any], index: int = 0) -> str:
    return "".join(delta.content or "" for delta in _choice_deltas(chunks, index))


def _call_deltas(chunks: Iterable[Any]) -> list[Any]:
    with_calls = [delta for delta in _choice_deltas(chunks) if delta.tool_calls]
    return [call for delta in with_calls for call in delta.tool_calls]


def _joined_calls(chunks: list[Any]) -> list[tuple[str, str]]:
    """Name and arguments per call index."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for call in _call_deltas(chunks):
        if call.id is not None:
            names[call.index] = call.function.name
        arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
    return [(names[index], arguments[index]) for index in sorted(names)]


def test_openai_full_text(served: Served) -> None:
    served.provider.answers["m"] = Answer([Say(TEXT)])
    reply = served.chat()
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "m"
    assert reply.choices[0].message.content == TEXT
    assert reply.choices[0].message.tool_calls is None
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == Usage().prompt + Usage().completion
    assert served.chat().id != reply.id


def test_openai_streamed_text(served: Served) -> None:
    served.provider.answers["m"] = Answer([Say(TEXT)])
    chunks = list(served.chat(stream=True))
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    assert [delta.content for delta in _choice_deltas(chunks)[1:3]] == ["The q", "uick "]
    assert _streamed_text(chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].choices[0].delta.content is None
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_openai_stream_ends_with_done(served: Served) -> None:
    reply = httpx.post(f"{served.url}/chat/completions", json=_raw_request())
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")


def test_openai_streamed_usage(served: Served) -> None:
    served.provider.answers["m"] = Answer([Say("x")], usage=Usage(prompt=3, completion=4))
    *earlier, last = served.chat(stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (3, 4, 7)
    assert all(chunk.usage is None for chunk in earlier)


def test_openai_thinking(served: Served) -> None:
    served.provider.answers["m"] = Answer([Think("I ponder."), Say("Done.")])
    message = served.chat().choices[0].message
    assert (message.reasoning_content, message.content) == ("I ponder.", "Done.")
    deltas = _choice_deltas(served.chat(stream=True))
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "I ponder."


def test_openai_one_call(served: Served) -> None:
    served.provider.answers["m"] = Answer(CALLS[:1])
    choice = served.chat().choices[0]
    assert choice.message.content is None
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].id.startswith("call_")
    assert choice.message.tool_calls[0].function.arguments == CALLS[0].arguments
    first, second, *_ = _call_deltas(served.chat(stream=True))
    assert (first.index, first.type, first.function.name, first.function.arguments) == (0, "function", "search", "")
    assert (second.id, second.function.name, second.function.arguments) == (None, None, '{"que')


def test_openai_three_calls(served: Served) -> None:
    served.provider.answers["m"] = Answer([Say("Calling."), *CALLS])
    message = served.chat().choices[0].message
    assert message.content == "Calling."
    assert [call.function.name for call in message.tool_calls] == ["search", "add", "noop"]
    assert len({call.id for call in message.tool_calls}) == 3
    assert message.tool_calls[1].id == "fixed_id"
    chunks = list(served.chat(stream=True))
    indices = [call.index for call in _call_deltas(chunks)]
    assert indices == sorted(indices)
    assert _joined_calls(chunks) == [(call.name, call.arguments) for call in CALLS]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_openai_interleaved_calls(served: Served) -> None:
    served.provider.answers["m"] = Answer([*CALLS, Say("after")], interleave=True)
    chunks = list(served.chat(stream=True))
    assert [call.index for call in _call_deltas(chunks)] == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 0]
    assert _joined_calls(chunks) == [(call.name, call.arguments) for call in CALLS]
    assert _streamed_text(chunks) == "after"


def test_openai_two_choices(served: Served) -> None:
    served.provider.answers["m"] = Answer([Say(TEXT), Call("noop", "{}")])
    reply = served.chat(n=2)
    assert [choice.message.content for choice in reply.choices] == [TEXT, TEXT]
    chunks = list(served.chat(n=2, stream=True))
    assert [_streamed_text(chunks, index) for index in range(2)] == [TEXT, TEXT]
    finished = [choice for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert [(choice.index, choice.finish_reason) for choice in finished] == [(0, "tool_calls"), (1, "tool_calls")]


def test_anthropic_full_blocks(served: Served) -> None:
    served.provider.answers["m"] = Answer([Think("Hm.", "sig"), Say(TEXT), *CALLS], usage=Usage(3, 4))
    reply = served.message()
    thinking, text, *calls = reply.content
    assert (thinking.type, thinking.thinking, thinking.signature) == ("thinking", "Hm.", "sig")
    assert (text.type, text.text) == ("text", TEXT)
    assert [(call.name, call.input) for call in calls] == [(call.name, json.loads(call.arguments)) for call in CALLS]
    assert calls[0].id.startswith("toolu_")
    assert calls[1].id == "fixed_id"
    assert (reply.stop_reason, reply.model) == ("tool_use", "m")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3, 4)


def test_anthropic_stream_events(served: Served) -> None:
    served.provider.answers["m"] = Answer([Think("Hm.", "sig"), Say("Hello world"), Call("noop", "{}")])
    lines = httpx.post(f"{served.url}/v1/messages", json=_raw_request()).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    block = ["content_block_start", "content_block_delta", "content_block_delta"]
    assert names == [
        *("message_start", "ping"),
        *(*block, "content_block_stop"),
        *(*block, "content_block_delta", "content_block_stop"),
        *(*block[:2], "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert [event["index"] for event in events if "index" in event] == [0] * 4 + [1] * 5 + [2] * 3
    deltas = [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == ["thinking_delta", "signature_delta", *["text_delta"] * 3, "input_json_delta"]


def test_anthropic_stream_accumulates_to_the_full_message(served: Served) -> None:
    served.provider.answers["m"] = Answer([Think("Hm. Well.", "sig"), Say(TEXT), *CALLS])
    messages: Any = [{"role": "user", "content": "hi"}]
    with served.anthropic.messages.stream(model="m", max_tokens=9, messages=messages) as stream:
        message = stream.get_final_message()
    content: list[Any] = list(message.content)
    assert [block.type for block in content] == ["thinking", "text", "tool_use", "tool_use", "tool_use"]
    assert (content[0].thinking, content[0].signature, content[1].text) == ("Hm. Well.", "sig", TEXT)
    assert [block.input for block in content[2:]] == [json.loads(call.arguments) for call in CALLS]
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (Usage().prompt, Usage().completion)


@pytest.mark.parametrize(
    ("finish", "stop_reason"), [("length", "max_tokens"), ("stop", "end_turn"), ("content_filter", "refusal")]
)
def test_finish_can_be_overridden(served: Served, finish: str, stop_reason: str) -> None:
    served.provider.answers["m"] = Answer([Say("x"), Call("noop", "{}")], finish=finish)
    assert served.chat().choices[0].finish_reason == finish
    assert list(served.chat(stream=True))[-1].choices[0].finish_reason == finish
    assert served.message().stop_reason == stop_reason
    assert list(served.message(stream=True))[-2].delta.stop_reason == stop_reason


@pytest.mark.parametrize("stream", [False, True])
def test_error_status(served: Served, stream: bool) -> None:
    served.provider.answers["m"] = Answer([Say("slow down")], status=429)
    with pytest.raises(openai.RateLimitError, match="slow down") as openai_error:
        served.chat(stream=stream)
    assert openai_error.value.type == "rate_limit_error"
    with pytest.raises(anthropic.RateLimitError, match="slow down") as anthropic_error:
        served.message(stream=stream)
    assert anthropic_error.value.type == "rate_limit_error"


def test_server_error_status(served: Served) -> None:
    served.provider.answers["m"] = Answer(status=503)
    with pytest.raises(openai.InternalServerError):
        served.chat()
    with pytest.raises(anthropic.InternalServerError):
        served.message()


def test_openai_wait_stops_the_stream(served: Served) -> None:
    gate = Gate()
    served.provider.answers["m"] = Answer([Say("one"), Wait(gate), Say("two")])
    stream = iter(served.chat(stream=True))
    gate.wait_reached()
    assert _streamed_text([next(stream), next(stream)]) == "one"
    gate.open()
    assert _streamed_text(stream) == "two"


def test_wait_comes_once_for_several_choices(served: Served) -> None:
    gate = Gate()
    gate.open()
    served.provider.answers["m"] = Answer([Wait(gate), Say("x")])
    chunks = list(served.chat(stream=True, n=2))
    assert [_streamed_text(chunks, index) for index in range(2)] == ["x", "x"]


def test_anthropic_wait_comes_after_the_block_is_closed(served: Served) -> None:
    gate = Gate()
    served.provider.answers["m"] = Answer([Say("one"), Wait(gate), Say("two")])
    stream = iter(served.message(stream=True))
    gate.wait_reached()
    seen = [next(stream).type for _ in range(4)]
    assert seen == ["message_start", "content_block_start", "content_block_delta", "content_block_stop"]
    gate.open()
    assert "two" in [event.delta.text for event in stream if event.type == "content_block_delta"]


@pytest.mark.parametrize("ask", [Served.chat, Served.message])
def test_full_reply_waits_too(served: Served, ask: Callable[..., Any]) -> None:
    gate = Gate()
    served.provider.answers["m"] = Answer([Say("x"), Wait(gate)])
    with pytest.raises((openai.APITimeoutError, anthropic.APITimeoutError)):
        ask(served, timeout=0.2)
    gate.wait_reached()
    served.provider.disconnects.wait_for(1)


def test_gate_that_is_not_reached_times_out() -> None:
    with pytest.raises(TimeoutError):
        Gate().wait_reached(timeout=0.01)


def test_openai_cut_breaks_the_stream(served: Served) -> None:
    served.provider.answers["m"] = Answer([Say("half"), Cut(), Say("never")])
    chunks: list[Any] = []
    with pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):  # openai 2, openai 3
        chunks.extend(served.chat(stream=True))
    assert _streamed_text(chunks) == "half"


def test_cut_breaks_a_full_reply(served: Served) -> None:
    served.provider.answers["m"] = Answer([Say("x"), Cut()])
    with pytest.raises(openai.APIConnectionError):
        served.chat()
    with pytest.raises(anthropic.APIConnectionError):
        served.message()


def test_anthropic_cut_leaves_the_block_open(served: Served) -> None:
    served.provider.answers["m"] = Answer([Call("add", '{"a": 1'), Cut()])
    kinds: list[str] = []
    # The anthropic client speaks through httpx2 and lets its error through.
    with pytest.raises(httpx2.RemoteProtocolError):
        kinds.extend(event.type for event in served.message(stream=True))
    assert kinds == ["message_start", "content_block_start", "content_block_delta", "content_block_delta"]


def test_client_that_leaves_is_recorded(served: Served) -> None:
    gate = Gate()
    served.provider.answers["m"] = Answer([Say("one"), Wait(gate), Say("two")])
    with served.chat(stream=True) as stream:
        next(iter(stream))
        gate.wait_reached()
        assert served.provider.disconnects == []
    served.provider.disconnects.wait_for(1)
    assert served.provider.disconnects == served.provider.requests
    gate.open()


def test_completed_streams_are_no_disconnects(served: Served) -> None:
    list(served.chat(stream=True))
    list(served.message(stream=True))
    served.chat()
    assert served.provider.disconnects == []


SCRIPT = 'think: hm\nsay: one\nsay: two\ncall: add {"a": 1}\nsay: three'


@pytest.mark.parametrize("content", [SCRIPT, [{"type": "text", "text": part} for part in SCRIPT.split("\n")]])
def test_script_in_the_message(served: Served, content: Any) -> None:
    message = served.chat(content).choices[0].message
    assert (message.reasoning_content, message.content) == ("hm", "one\ntwothree")
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [("add", '{"a": 1}')]
    blocks = served.message(content).content
    assert [block.type for block in blocks] == ["thinking", "text", "tool_use", "text"]
    assert (blocks[0].signature, blocks[1].text, blocks[2].input) == (SCRIPT_SIGNATURE, "one\ntwo", {"a": 1})


def test_plain_message_is_repeated(served: Served) -> None:
    assert served.chat("good day").choices[0].message.content == "You said: good day"
    assert served.message("good day").content[0].text == "You said: good day"
    assert _streamed_text(served.chat("good day", stream=True)) == "You said: good day"


def test_last_user_message_counts(served: Served) -> None:
    turns = [("user", "say: old"), ("assistant", "say: not me"), ("user", "say: new"), ("assistant", "say: nor me")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert served.chat(messages=messages).choices[0].message.content == "new"
    assert served.message(messages=messages).content[0].text == "new"


def test_after_its_tools_the_script_is_over(served: Served) -> None:
    asked = {"role": "user", "content": 'call: look {"at": "it"}'}
    called = served.chat(messages=[asked]).choices[0].message
    [call] = called.tool_calls
    told = {"role": "tool", "tool_call_id": call.id, "content": "green"}
    assert served.chat(messages=[asked, called, told]).choices[0].message.content == "The tool said: green"

    used = served.message(messages=[asked]).content
    result = {"type": "tool_result", "tool_use_id": used[0].id, "content": "green"}
    turns = [asked, {"role": "assistant", "content": used}, {"role": "user", "content": [result]}]
    assert served.message(messages=turns).content[0].text == "The tool said: green"

    [call] = served.openai.responses.create(model="m", input=[asked]).output
    turns = [asked, call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "green"}]
    assert served.openai.responses.create(model="m", input=turns).output_text == "The tool said: green"


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        ("say: a\nsay:\nsay: b", [Say("a\n\nb")]),
        ("please\nsay: a", [Say("a")]),
        ("think: a\nthink: b", [Think("a\nb", SCRIPT_SIGNATURE)]),
        ('call: f {"a": [1]}\ncall: g {}', [Call("f", '{"a": [1]}'), Call("g", "{}")]),
        ("call: me later", []),
        ("call: f [1]", []),
        ("I say: a", []),
        ("", []),
    ],
)
def test_script_lines(script: str, steps: list[Any]) -> None:
    assert parse_script(script) == steps


def test_raw_bytes_are_replayed(served: Served) -> None:
    raw = b'event: odd\ndata: {"x": 1}\n\n: comment\r\n\r\ndata: [DONE]\n\nrest'
    served.provider.answers["m"] = Answer(raw=raw)
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert httpx.post(served.url + path, json=_raw_request()).content == raw


def test_requests_are_recorded(served: Served) -> None:
    served.chat("first", temperature=0.5)
    served.message("second")
    first, second = served.provider.requests
    assert (first.path, first.headers["authorization"]) == ("/v1/chat/completions", "Bearer key")
    assert (first.body["temperature"], first.body["messages"][0]["content"]) == (0.5, "first")
    assert (second.path, second.body["messages"][0]["content"]) == ("/v1/messages", "second")
    assert "anthropic-version" in second.headers


def test_models(served: Served) -> None:
    served.provider.answers["m"] = Answer()
    assert [model.id for model in served.openai.models.list()] == ["scripted", "m"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/v1/nothing"), ("GET", "/v1/messages")])
def test_anything_else_is_not_found(served: Served, method: str, path: str) -> None:
    reply = httpx.request(method, served.url + path)
    assert reply.status_code == 404
    assert path in reply.json()["error"]["message"]


def test_a_connection_may_rest_longer_than_a_server_of_uvicorn_lets_it(served: Served) -> None:
    address = httpx.URL(served.url)
    rests_s = uvicorn.Config(served.provider).timeout_keep_alive + 1
    with closing(HTTPConnection(address.host, address.port, timeout=rests_s)) as connection:
        connection.request("GET", "/v1/models")
        connection.getresponse().read()
        with pytest.raises(TimeoutError):  # instead of the end
            connection.sock.recv(1)


def test_body_that_is_not_json(served: Served) -> None:
    reply = httpx.post(f"{served.url}/v1/messages", content=b"{")
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_text_completions(served: Served) -> None:
    served.provider.answers["m"] = Answer([Think("not said"), Say(TEXT)], finish="length")
    create: Callable[..., Any] = served.openai.completions.create
    full = create(model="m", prompt="x", n=2)
    assert [(choice.text, choice.finish_reason) for choice in full.choices] == [(TEXT, "length")] * 2
    chunks = list(create(model="m", prompt="x", stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == TEXT
    assert chunks[-1].usage.total_tokens == full.usage.total_tokens == 18
    assert create(model="other", prompt="say: scripted").choices[0].text == "scripted"


def test_gemini(served: Served) -> None:
    served.provider.answers["m"] = Answer([Think("well", signature="sig"), Say(TEXT), CALLS[1]])
    ask: Any = {"model": "m", "contents": "say: scripted"}
    full = served.genai.models.generate_content(**ask)
    thought, text, call = full.parts or ()
    assert (thought.text, thought.thought, text.text) == ("well", True, TEXT)
    assert call.function_call == FunctionCall(id="fixed_id", name="add", args={"a": 1, "b": 2})
    chunks = list(served.genai.models.generate_content_stream(**ask))
    parts = [part for chunk in chunks for part in chunk.parts or ()]
    assert "".join(part.text or "" for part in parts if not part.thought) == TEXT
    assert [part for part in parts if part.function_call] == [call]
    assert [part.thought_signature for part in parts if part.thought_signature] == [b"sig", b"signature-of-add"]
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason == FinishReason.STOP
    assert chunks[-1].usage_metadata == full.usage_metadata
    assert served.genai.models.generate_content(**{**ask, "model": "other"}).text == "scripted"
    assert served.provider.requests[0].body["contents"] == [{"role": "user", "parts": [{"text": "say: scripted"}]}]


def test_log_wait_times_out() -> None:
    with pytest.raises(TimeoutError):
        Log[int]().wait_for(1, timeout=0.01)


def test_serve_stops_while_a_stream_waits() -> None:
    provider = ScriptedProvider()
    provider.answers["m"] = Answer([Wait(gate := Gate())])
    with httpx.Client(timeout=10) as client:
        with serve(provider) as url:
            request = client.build_request("POST", f"{url}/v1/chat/completions", json=_raw_request())
            reply = client.send(request, stream=True)
            gate.wait_reached()
        with pytest.raises(httpx.RemoteProtocolError):
            reply.read()
        with pytest.raises(httpx.ConnectError):
            client.get(f"{url}/v1/models")


def test_serve_reports_an_app_that_does_not_start() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "broken"})

    with pytest.raises(RuntimeError, match="did not start"), serve(broken):
        pass
