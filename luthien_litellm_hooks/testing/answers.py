"""The format-neutral script of the scripted provider, and what both wires need to play it.

An `Answer` says what the model does; the wire modules only say how each provider spells it.
"""

import asyncio
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.policy.request_texts import iter_texts
from luthien_litellm_hooks.policy.turns import turn_of

JSON: TypeAlias = dict[str, Any]

SCRIPT_SIGNATURE = "scripted-signature"
_SCRIPT_LINE = re.compile(r"(say|think|call):[ \t]*(.*)")
_CALL_LINE = re.compile(r"(\S+)[ \t]*(.*)")


class Gate:
    """A point where the server waits for the test, and the test can wait for the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: Future[None] = Future()
        self._reached = threading.Event()

    def open(self) -> None:
        """Let the server go on; callable from any thread, any number of times."""
        with self._lock:
            if not self._opened.done():
                self._opened.set_result(None)

    def wait_reached(self, timeout: float = 10.0) -> None:
        """Block the calling thread until the server stands at the gate; raise TimeoutError otherwise."""
        if not self._reached.wait(timeout):
            raise TimeoutError("the scripted provider did not reach the gate")

    async def passed(self) -> None:
        """Server side: report arrival and wait for `open`."""
        self._reached.set()
        # Without the shield a disconnecting client would cancel the gate for everybody.
        await asyncio.shield(asyncio.wrap_future(self._opened))


@dataclass(frozen=True, slots=True)
class Say:
    """A text block."""

    text: str


@dataclass(frozen=True, slots=True)
class Think:
    """A reasoning block; the signature exists on the Anthropic wire only."""

    text: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; `arguments` goes out as it is, `id` None means a fresh one per answer."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Stop here until the gate is opened."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection here, in the middle of the block before it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The token counts the provider reports."""

    prompt: int = 11
    completion: int = 7


Step: TypeAlias = Say | Think | Call | Wait | Cut
Emission: TypeAlias = bytes | Wait | Cut


@dataclass(frozen=True, slots=True)
class Answer:
    """All the provider does for one request.

    `finish` is an OpenAI finish reason (None: what the steps imply). A `status` of 400 or more
    replaces the answer by an error. `raw` replaces the steps, or the error, by these bytes. `headers` are sent
    besides those that every answer has.
    """

    steps: Sequence[Step] = ()
    finish: str | None = None
    usage: Usage = Usage()
    status: int = 200
    piece: int = 5
    interleave: bool = False
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def calls(self) -> list[Call]:
        """The tool calls in order."""
        return [step for step in self.steps if isinstance(step, Call)]

    @property
    def text(self) -> str:
        """All spoken text."""
        return "".join(step.text for step in self.steps if isinstance(step, Say))

    @property
    def finish_reason(self) -> str:
        """The OpenAI word for why the answer ends."""
        return self.finish or ("tool_calls" if self.calls else "stop")

    def with_call_ids(self, prefix: str) -> "Answer":
        """The same answer with a fresh id on every call that has none."""
        steps = [
            replace(step, id=fresh_id(prefix)) if isinstance(step, Call) and step.id is None else step
            for step in self.steps
        ]
        return replace(self, steps=steps)

    def pieces(self, text: str) -> list[str]:
        """Cut text into what each streamed delta carries."""
        return [text[start : start + self.piece] for start in range(0, len(text), self.piece)]


def fresh_id(prefix: str) -> str:
    """An id that no other answer has."""
    return prefix + uuid.uuid4().hex[:24]


def dump(value: JSON) -> str:
    """JSON as the providers send it: compact and in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def whole(answer: Answer, body: JSON) -> Iterator[Emission]:
    """A full reply: the control steps in order, then the body."""
    yield from (step for step in answer.steps if isinstance(step, Wait | Cut))
    yield dump(body).encode()


def replay(raw: bytes) -> Iterator[Emission]:
    """Recorded bytes, one write per SSE frame."""
    yield from (frame for frame in re.split(rb"(?<=\n\n)", raw) if frame)


def answer_to(body: JSON) -> Answer:
    """Read the last user message as a script; without script lines, repeat it. After the tools that it had
    called, say what they gave back."""
    if turn_of(body) == "tool":
        *_, result = ["", *(text.text for text in iter_texts(Request(body)) if text.role == "tool")]
        return Answer([Say(f"The tool said: {result}")])
    message = _last_user_text(body.get("messages", []))
    return Answer(parse_script(message) or [Say(f"You said: {message}")])


def parse_script(message: str) -> list[Step]:
    """The steps of the `say:`, `think:` and `call:` lines; other lines mean nothing."""
    steps: list[Step] = []
    for line in message.splitlines():
        step = _script_step(line)
        match steps[-1] if steps else None, step:
            case Say(before), Say(text):
                steps[-1] = Say(f"{before}\n{text}")
            case Think(before), Think(text):
                steps[-1] = Think(f"{before}\n{text}", SCRIPT_SIGNATURE)
            case _, None:
                pass
            case _, new:
                steps.append(new)
    return steps


def _script_step(line: str) -> Say | Think | Call | None:
    match = _SCRIPT_LINE.fullmatch(line)
    if match is None:
        return None
    word, rest = match.groups()
    if word == "say":
        return Say(rest)
    return Think(rest, SCRIPT_SIGNATURE) if word == "think" else _script_call(rest)


def _script_call(rest: str) -> Call | None:
    """A call, unless the arguments are no JSON object: then a person wrote "call: me later"."""
    match = _CALL_LINE.fullmatch(rest)
    if match is None:
        return None
    name, arguments = match.groups()
    return Call(name, arguments) if _is_json_object(arguments) else None


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return _content_text(message.get("content"))
    return ""


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = cast("list[JSON]", content) if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if part.get("type") == "text")
