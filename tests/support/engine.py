"""The engine alone, free of LiteLLM's proxy and of the network, for measuring."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName

_TEXT = "this text says some more each time that any reader asks what will come down when done "
_PIECE = 5
LAST_WORD = "last-word"

NOOP: Mapping[str, Any] = {"class": "noop"}
RULES: Mapping[str, Any] = {
    "rules": [
        *({"action": "block", "commands": f"tool{number} delete"} for number in range(10)),
        *({"action": "block", "paths": f"**/private-{number}/**"} for number in range(10)),
        *({"action": "block", "tool": f"service_{number}", "args": {"path": "*/secret/*"}} for number in range(10)),
    ]
}
TOOL_RULES: Mapping[str, Any] = {"class": "tool_rules", "config": RULES}
STRING_REPLACEMENT: Mapping[str, Any] = {
    "class": "string_replacement",
    "config": {"replacements": [[f"forbidden{number}", "allowed"] for number in range(50)]},
}
PRESETS = (
    "block_dangerous_commands",
    "block_sensitive_file_writes",
    "block_web_requests",
    "sql_protection",
    "protect_proxy",
)
SERIAL: Mapping[str, Any] = {"class": "serial", "config": {"policies": [NOOP, TOOL_RULES, STRING_REPLACEMENT]}}
_SCRIPT = (
    "cd /work/project && git log --oneline -n 20 | grep -v merge | sort -u > /tmp/changes-{n}.txt",
    'for f in $(find src -name "*.py" -newer setup.cfg); do python -m py_compile "$f" || echo "bad: $f"; done',
    'python -m pytest -q tests/unit/test_{n}.py -k "not slow" --maxfail=1 2>&1 | tail -n 40',
    "mkdir -p build/{n} && cp -r src/lib/*.py build/{n}/ && sed -i 's/VERSION = .*/VERSION = 1/' build/{n}/version.py",
    'NAME=item_{n}; printf "%s\\n" "$NAME" | tee -a notes/$NAME.txt',
    'if [ -f package.json ]; then npm test -- --grep "case {n}" || exit 1; fi',
)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Stream:
    """What LiteLLM hands to a plugin of one answer."""

    route: RouteName
    items: Sequence[object]

    async def read(self) -> AsyncIterator[object]:
        for item in self.items:
            yield item


@cache
def text_stream(route: RouteName, words: int) -> Stream:
    """An answer of so many chunks of text, of a short word each."""
    text = (_TEXT * (words * _PIECE // len(_TEXT) + 1))[: words * _PIECE]
    return _stream(route, Answer([Say(text)], piece=_PIECE))


@cache
def call_stream(route: RouteName, pieces: int, piece: int = _PIECE) -> Stream:
    """An answer that calls a tool, with arguments of so many chunks of so many characters; they end in `LAST_WORD`."""
    arguments = '{"path": "notes.md", "content": "' + "some " * (pieces * piece // _PIECE) + LAST_WORD + '"}'
    return _stream(route, Answer([Call("write_file", arguments)], piece=piece))


def new_script(characters: int) -> str:
    """A script of an agent, of about so many characters, that no policy has read before."""
    lines = list[str]()
    while sum(map(len, lines)) < characters:
        number = next(_numbers)
        lines.append(_SCRIPT[number % len(_SCRIPT)].replace("{n}", f"{number:06}"))
    return "\n".join(lines)[:characters].rpartition("\n")[0] or lines[0][:characters].partition(" >")[0]


def script_stream(route: RouteName, characters: int) -> Stream:
    """An answer that runs a new script of about so many characters."""
    arguments = json.dumps({"command": new_script(characters)})
    return _stream(route, Answer([Say("I run it."), Call("Bash", arguments)], piece=500))


def _stream(route: RouteName, answer: Answer) -> Stream:
    async def items() -> list[object]:
        return [item async for item in ROUTES[route].stream(answer, _request(route).body)]

    return Stream(route, asyncio.run(items()))


def _request(route: RouteName) -> Request:
    return Request({"model": "scripted", "stream": True, **ROUTES[route].body}, route=ROUTES[route].path)


def engine(policy: Mapping[str, Any]) -> Callable[[Stream], float]:
    """Lets answers through a policy, recorded as in a proxy; each returns the seconds of CPU time."""
    executor = build_executor(load_settings({"luthien": {"policy": policy}}, {}))

    async def run(stream: Stream) -> float:
        context = PolicyContext("transaction", _request(stream.route), recorder=DefaultTransactionRecorder())
        await executor.on_request(context)
        adapter = adapter_for(ROUTES[stream.route].call_type, context.final_request)
        began, left = time.thread_time(), 0
        async for item in executor.run(stream.read(), adapter, context):
            left += _size(item)
        spent = time.thread_time() - began
        if left < sum(map(_size, stream.items)) // 2:
            raise RuntimeError(f"of {stream.route} less than a half left")
        return spent

    return lambda stream: asyncio.run(run(stream))


def held_call(policy: Mapping[str, Any], stream: Stream, runner: asyncio.Runner) -> Callable[[], None]:
    """An answer whose call is held, of which all has come but the last piece of its arguments and what follows it.
    The function brings that, and returns when the whole answer has left."""
    executor = build_executor(load_settings({"luthien": {"policy": policy}}, {}))
    last = next(number for number, item in enumerate(stream.items) if LAST_WORD in str(item))
    is_held, goes_on = asyncio.Event(), asyncio.Event()

    async def items() -> AsyncIterator[object]:
        for number, item in enumerate(stream.items):
            if number == last:
                is_held.set()
                await goes_on.wait()
            yield item

    async def begin() -> asyncio.Task[list[object]]:
        context = PolicyContext("transaction", _request(stream.route), recorder=DefaultTransactionRecorder())
        await executor.on_request(context)
        adapter = adapter_for(ROUTES[stream.route].call_type, context.final_request)
        task = asyncio.create_task(_all(executor.run(items(), adapter, context)))
        await is_held.wait()
        return task

    async def end(task: asyncio.Task[list[object]]) -> None:
        goes_on.set()
        if sum(map(_size, await task)) < sum(map(_size, stream.items)):
            raise RuntimeError(f"not all of {stream.route} left")

    task = runner.run(begin())
    return lambda: runner.run(end(task))


async def _all(items: AsyncIterator[object]) -> list[object]:
    return [item async for item in items]


def _size(item: object) -> int:
    """Of what is bytes these count: they may leave in other pieces."""
    return len(item) if isinstance(item, bytes) else 1
