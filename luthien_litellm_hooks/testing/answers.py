"""Wire-neutral scripts of the scripted provider, and the parts that all wires share.

An `Answer` is one scripted response; the wire modules encode it in the format of each provider.
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
from typing import Any, TypeAlias

from luthien_litellm_hooks.policy.request import Request, iter_texts, turn_of
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.request_shape import author, conversation, item_texts

JSON: TypeAlias = dict[str, Any]

SCRIPT_SIGNATURE = "scripted-signature"
_SCRIPT_LINE = re.compile(r"(say|think|call):[ \t]*(.*)")
_CALL_LINE = re.compile(r"(\S+)[ \t]*(.*)")


PATIENCE_SECONDS = 60.0
"""Default wait for an event, which a busy machine may need. A test that passes waits for the event alone."""


class Gate:
    """Point where the server waits for the test, and the test can wait for the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: Future[None] = Future()
        self._reached = threading.Event()

    def open(self) -> None:
        """Lets the server continue; callable from any thread, any number of times."""
        with self._lock:
            if not self._opened.done():
                self._opened.set_result(None)

    def wait_reached(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Blocks the calling thread until the server reaches the gate. Raises `TimeoutError` otherwise."""
        if not self._reached.wait(timeout):
            raise TimeoutError("the scripted provider did not reach the gate")

    async def passed(self) -> None:
        """Reports the server's arrival and waits for `open`."""
        self._reached.set()
        # Without the shield a disconnecting client would cancel the gate for all.
        await asyncio.shield(asyncio.wrap_future(self._opened))


@dataclass(frozen=True, slots=True)
class Say:
    """Text block."""

    text: str


@dataclass(frozen=True, slots=True)
class Think:
    """Reasoning block; the signature exists only on the Anthropic and Gemini wires."""

    text: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """Tool call; `arguments` is sent as it is, `id` None means a fresh id for each response."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Pause until the gate is opened."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class Cut:
    """End of the connection, in the middle of the block before it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts that the provider reports."""

    prompt: int = 11
    completion: int = 7


Step: TypeAlias = Say | Think | Call | Wait | Cut
Emission: TypeAlias = bytes | Wait | Cut


@dataclass(frozen=True, slots=True)
class Answer:
    """Scripted response to one request.

    `finish` is an OpenAI finish reason; None derives it from the steps. A `status` of 400 or more replaces the response
    by an error. `raw` replaces the steps, or the error, by these bytes. `headers` are added to the usual ones.
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
        """Returns the tool calls in order."""
        return [step for step in self.steps if isinstance(step, Call)]

    @property
    def text(self) -> str:
        """Returns the text of all `Say` steps."""
        return "".join(step.text for step in self.steps if isinstance(step, Say))

    @property
    def finish_reason(self) -> str:
        """Returns the OpenAI finish reason."""
        return self.finish or ("tool_calls" if self.calls else "stop")

    def with_call_ids(self, prefix: str) -> "Answer":
        """Returns a copy with a fresh id for every call without one."""
        steps = [
            replace(step, id=fresh_id(prefix)) if isinstance(step, Call) and step.id is None else step
            for step in self.steps
        ]
        return replace(self, steps=steps)

    def pieces(self, text: str) -> list[str]:
        """Splits text into the deltas of a stream."""
        return [text[start : start + self.piece] for start in range(0, len(text), self.piece)]


def fresh_id(prefix: str) -> str:
    """Returns a unique id."""
    return prefix + uuid.uuid4().hex[:24]


def dump(value: JSON) -> str:
    """Returns JSON in the form of providers: compact and in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def whole(answer: Answer, body: JSON) -> Iterator[Emission]:
    """Yields a full response: the control steps in order, then the body."""
    yield from (step for step in answer.steps if isinstance(step, Wait | Cut))
    yield dump(body).encode()


def replay(raw: bytes) -> Iterator[Emission]:
    """Yields recorded bytes, one write for each server-sent event."""
    yield from (event for event in re.split(rb"(?<=\n\n)", raw) if event)


def answer_to(body: JSON) -> Answer:
    """Reads the last user message as a script; without script lines, repeats it. After a tool call, repeats the tool's
    result."""
    if turn_of(body) == "tool":
        *_, result = ["", *(text.text for text in iter_texts(Request(body)) if text.role == "tool")]
        return Answer([Say(f"The tool said: {result}")])
    message = _last_user_text(body)
    return Answer(parse_script(message) or [Say(f"You said: {message}")])


def parse_script(message: str) -> list[Step]:
    """Returns the steps of the `say:`, `think:` and `call:` lines; ignores other lines."""
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
    """Returns a call; None if the arguments are not a JSON object, as in "call: me later"."""
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


def _last_user_text(body: JSON) -> str:
    shape = FORMATS.request
    items = (item for item in reversed(conversation(body, shape)) if author(item, shape) == "user")
    return next(("\n".join(item_texts(item, shape)) for item in items), "")
