"""Mixed traffic of all routes: transactions as the plugin records them, with policies that pass, change, block, refuse,
answer by themselves and fail."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from luthien_litellm_hooks import Answer, Request, SimplePolicy
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine.composition import members_of
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.recording.decision import Identity
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.recording.sqlite import RecordFile, timestamp
from luthien_litellm_hooks.testing.answers import PATIENCE_SECONDS, Call, Say, Step, Think
from luthien_litellm_hooks.testing.answers import Answer as Script
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.proxy import Proxy

JSON = dict[str, Any]
_AT_ONCE = 16
BEGIN = datetime(2026, 11, 21, tzinfo=UTC)


class Moody(SimplePolicy):
    """Refuses a question, answers another by itself, blocks a text, fails on a call, and changes a third question."""

    async def on_request_simple(self, request: Request) -> Request | Answer:
        asked = json.dumps(request.body)
        if "refuse" in asked:
            raise PolicyBlockedError("Not this.", reason="refused")
        if "answer yourself" in asked:
            return Answer("By myself.")
        return request.replace(temperature=0) if "be cold" in asked else request

    async def on_response_content(self, content: str, request: Request) -> str:
        if "unspeakable" in content:
            raise PolicyBlockedError("Not said.", reason="unspeakable")
        return content

    async def on_response_tool_call(self, tool_call: Any, request: Request) -> Any:
        if tool_call.name == "confuse":
            raise KeyError(tool_call.name)
        return tool_call


POLICIES: list[JSON] = [
    {"class": "secrets"},
    {"class": "prefer_uv"},
    {"class": "block_dangerous_commands"},
    {"class": "string_replacement", "config": {"replacements": [["sky", "ground"]]}},
    {"class": "tests.support.traffic:Moody"},
]
NO_DEPLOYS: JSON = {
    "class": "tool_rules",
    "config": {"rules": [{"action": "block", "tool": "deploy"}], "default": "allow"},
}
"""One rule more, for the calls of `deploy` in the traffic."""


def _bash(command: str, number: int = 1) -> Call:
    return Call("Bash", json.dumps({"command": command}), id=f"call_{number}")


SCENES: Sequence[tuple[str, Sequence[Step]]] = (
    ("hello", [Say("The answer is 42.")]),
    ("hello", [Think("It is late."), Say("The sky is blue.")]),
    ("clean up", [Say("I clean up."), _bash("rm -rf /")]),
    ("list", [_bash("ls -la"), _bash("git status", 2), _bash("sudo mkfs.ext4 /dev/sda1", 3)]),
    ("install", [Say("Now."), _bash("pip install six")]),
    ("deploy", [Say("I deploy."), Call("deploy", '{"to": "production"}', id="call_1"), _bash("echo done", 2)]),
    ("key", [Say("It is AKIAQWERTYUIOPASDFGH, keep it.")]),
    ("refuse", [Say("never seen")]),
    ("answer yourself", [Say("never seen")]),
    ("be cold", [Say("Brr.")]),
    ("say it", [Say("Well. unspeakable")]),
    ("break", [Say("I try."), Call("confuse", "{}", id="call_1")]),
    ("nothing", []),
    ("write", [Call("Write", '{"file_path": "a.txt", "content": "the sky"}', id="call_1"), _bash("cat a.txt", 2)]),
)


@dataclass(frozen=True)
class Way:
    """A scene on a route. `model` is a name for the scene's model."""

    number: int
    route: RouteName
    is_full: bool

    @property
    def question(self) -> str:
        return SCENES[self.number][0]

    @property
    def model(self) -> str:
        return f"scene-{self.number}"

    @property
    def body(self) -> JSON:
        body = json.loads(json.dumps(ROUTES[self.route].body).replace("hello", self.question))
        return body | {"stream": not self.is_full}

    def ask(self, proxy: Proxy, key: str) -> None:
        """Asks the proxy for the scene, and reads the whole answer. Its provider must have `ANSWERS`."""
        path, body = ROUTES[self.route].path, self.body
        if self.route == "gemini":
            method = "generateContent" if self.is_full else "streamGenerateContent?alt=sse"
            path = f"/v1beta/models/gemini/{self.model}:{method}"
            del body["stream"]
        else:
            body["model"] = f"{'anthropic' if self.route == 'messages' else 'openai'}/{self.model}"
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(proxy.url + path, json=body, headers=headers, timeout=PATIENCE_SECONDS)
        assert answer.is_success, f"{self}: {answer.text}"

    @property
    def script(self) -> Script:
        return Script(list(SCENES[self.number][1]))


WAYS: Sequence[Way] = [
    Way(number, route, is_full)
    for number, (_, steps) in enumerate(SCENES)
    for route in ROUTES
    for is_full in (False, True)
    if route != "completions" or all(isinstance(step, Say) for step in steps)  # these have texts alone
]

ANSWERS: Mapping[str, Script] = {way.model: way.script for way in WAYS}
"""Of a scripted provider, by its models."""


def ask_all(proxy: Proxy, key: str, ways: Sequence[Way]) -> None:
    """Asks a proxy for many scenes at once."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(lambda way: way.ask(proxy, key), ways))


def executor_of(*policies: Mapping[str, object]) -> PolicyExecutor:
    return build_executor(load_settings({"luthien": {"policy": policy_of(*policies)}}, {}))


def policy_of(*policies: Mapping[str, object]) -> JSON:
    return {"class": "serial", "config": {"policies": list(policies)}}


async def transactions(count: int, executor: PolicyExecutor) -> list[JSON]:
    """So many rows of the spend logs, of each scene on each route, streamed and full."""
    return [await _row(executor, number, WAYS[number % len(WAYS)]) for number in range(count)]


async def _row(executor: PolicyExecutor, number: int, way: Way) -> JSON:
    wire, body = ROUTES[way.route], way.body | {"model": "scripted"}
    recorder = DefaultTransactionRecorder()
    request = Request(body, route=wire.path, session=f"session-{number % 7}")
    ctx = PolicyContext(str(uuid.uuid4()), request, identity=Identity(key_alias="agents"), recorder=recorder)
    try:
        result = await executor.on_request(ctx)
    except PolicyBlockedError:
        await recorder.record_request(body, ctx.final_request.body)
        await recorder.finalize_non_streaming("blocked")
    else:
        ctx.answer = result if isinstance(result, Answer) else None
        await recorder.record_request(body, ctx.final_request.body)
        adapter = wire.adapter(ctx.final_request)
        if way.is_full:
            await executor.run_full(wire.full(way.script, body), adapter, ctx)
        else:
            async with aclosing(executor.run(wire.stream(way.script, body), adapter, ctx)) as delivered:
                async for _ in delivered:
                    pass
    policies = [(member.name, member.version) for member in members_of(executor.composition)]
    record = transaction_record(
        ctx, recorder, "8c04d5f1", policies, with_bodies=True, path=request.route, session=request.session
    )
    return {
        "request_id": f"response-{ctx.transaction_id}",
        "litellm_call_id": str(uuid.uuid4()),
        "call_type": wire.call_type,
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "model": "scripted",
        "model_group": "scripted",
        "startTime": BEGIN + timedelta(seconds=number),
        "metadata": {"user_api_key_alias": "agents", "spend_logs_metadata": {"luthien": record}},
    }


def record_of(row: Mapping[str, Any]) -> JSON:
    return row["metadata"]["spend_logs_metadata"]["luthien"]


def write_sqlite(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the file of a proxy without a database."""
    file = RecordFile(path)
    told = [{**row, "startTime": timestamp(row["startTime"])} for row in rows]
    file.write([json.dumps({"row": row, "max_days": 36_500, "max_bytes": 10**10}) for row in told])
    file.close()


def write_events(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the events of the transactions, as a proxy publishes them."""
    path.write_text("".join(json.dumps(event) + "\n" for row in rows for event in _events(row)))


def _events(row: Mapping[str, Any]) -> Iterator[JSON]:
    record = record_of(row)
    [route] = [route.name for route in ROUTES.values() if route.call_type == row["call_type"]]
    data = {"route": route, "identity": record["identity"], "decisions": record["decisions"]}
    about = {"transaction_id": record["transaction_id"], "time": row["startTime"].isoformat()}
    yield {"type": "transaction.request_recorded", **about, "data": data}
    names = {"response_id": "request_id", "call_id": "litellm_call_id", "model": "model", "model_group": "model_group"}
    facts = {name: row[column] for name, column in names.items()}
    yield {"type": "transaction.recorded", **about, "data": {**data, **facts, "record": record}}
