"""Official clients on every governed route of a real proxy, and what each makes of the same answer."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from luthien_litellm_hooks.testing.routes import ROUTES as SPOKEN
from tests.support.proxy import Proxy

QUESTION = "hello"


_ID = re.compile(r" \(transaction [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\)")


@dataclass(frozen=True)
class Said:
    """What a client has got; the arguments of calls as objects."""

    text: str
    calls: tuple[tuple[str, Any], ...] = ()
    reasoning: str = ""

    @property
    def anonymous(self) -> "Said":
        """The same without the transaction's id, which each notice carries."""
        return replace(self, text=_ID.sub("", self.text))


Ask = Callable[[Proxy, str, bool, Mapping[str, str]], Said]


def _chat(proxy: Proxy, name: str, stream: bool, headers: Mapping[str, str]) -> Said:
    body: dict[str, Any] = {"model": f"openai/{name}", "messages": [{"role": "user", "content": QUESTION}]}
    if stream:
        with proxy.openai.chat.completions.stream(**body, extra_headers=headers) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = proxy.openai.chat.completions.create(**body, extra_headers=headers).choices[0].message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    return Said(message.content or "", tuple(calls), getattr(message, "reasoning_content", None) or "")


def _completions(proxy: Proxy, name: str, stream: bool, headers: Mapping[str, str]) -> Said:
    answer = proxy.openai.completions.create(
        model=f"openai/{name}", prompt=QUESTION, stream=stream, extra_headers=headers
    )
    return Said("".join(chunk.choices[0].text or "" for chunk in (answer if stream else [answer])))


def _messages(proxy: Proxy, name: str, stream: bool, headers: Mapping[str, str]) -> Said:
    body: dict[str, Any] = {
        "model": f"anthropic/{name}",
        "max_tokens": 99,
        "messages": [{"role": "user", "content": QUESTION}],
        "extra_headers": headers,
    }
    if stream:
        with proxy.anthropic.messages.stream(**body) as events:
            blocks = events.get_final_message().content
    else:
        blocks = proxy.anthropic.messages.create(**body).content
    kinds = [block.type for block in blocks]
    assert "text" not in kinds[kinds.index("tool_use") :] if "tool_use" in kinds else True, kinds
    return Said(
        "".join(block.text for block in blocks if block.type == "text"),
        tuple((block.name, block.input) for block in blocks if block.type == "tool_use"),
        "".join(block.thinking for block in blocks if block.type == "thinking"),
    )


def _responses(proxy: Proxy, name: str, stream: bool, headers: Mapping[str, str]) -> Said:
    body: dict[str, Any] = {"model": f"openai/{name}", "input": QUESTION, "extra_headers": headers}
    if stream:
        with proxy.openai.responses.stream(**body) as events:
            answer = events.get_final_response()
    else:
        answer = proxy.openai.responses.create(**body)
    items = [item for item in answer.output if item.type == "function_call"]
    summaries = [part.text for item in answer.output if item.type == "reasoning" for part in item.summary]
    return Said(
        answer.output_text, tuple((item.name, json.loads(item.arguments)) for item in items), "".join(summaries)
    )


def _gemini(proxy: Proxy, name: str, stream: bool, headers: Mapping[str, str]) -> Said:
    options: Any = {"headers": dict(headers), "extra_body": {"extra_headers": dict(headers)}}  # LiteLLM forwards these
    chat = proxy.genai.chats.create(model=f"gemini/{name}", config={"http_options": options})
    if stream:
        list(chat.send_message_stream(QUESTION))
    else:
        chat.send_message(QUESTION)
    history = chat.get_history()
    if history != chat.get_history(curated=True):
        raise RuntimeError("the next request would be without this turn")
    parts = [part for content in history[1:] for part in content.parts or ()]
    calls = [part.function_call for part in parts if part.function_call]
    return Said(
        "".join(part.text or "" for part in parts if not part.thought),
        tuple((call.name or "", call.args) for call in calls),
        "".join(part.text or "" for part in parts if part.thought),
    )


ROUTES: dict[str, Ask] = {
    "chat": _chat,
    "messages": _messages,
    "responses": _responses,
    "completions": _completions,
    "gemini": _gemini,
}


def plain_request(route: str, model: str, stream: bool) -> tuple[str, dict[str, Any]]:
    """The path and the body of the least request of this route, for a client that is no official one."""
    path, body = SPOKEN[route].path, SPOKEN[route].body
    if route == "gemini":
        return f"/v1beta/models/{model}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}", {**body}
    return path, {**body, "model": model, "stream": stream}


def apart(route: str) -> str:
    """What stands between the model's text and ours, where both run together."""
    return "\n\n" if route in ("chat", "completions", "gemini") else ""
