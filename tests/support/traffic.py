"""Mixed traffic of all routes: transactions as the plugin records them, with policies that pass, change, block, refuse,
answer by themselves and fail."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

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
from luthien_litellm_hooks.testing.answers import Answer as Script
from luthien_litellm_hooks.testing.answers import Call, Say, Step, Think
from luthien_litellm_hooks.testing.routes import ROUTES

JSON = dict[str, Any]
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


def executor_of(*policies: Mapping[str, object]) -> PolicyExecutor:
    return build_executor(load_settings({"luthien": {"policy": policy_of(*policies)}}, {}))


def policy_of(*policies: Mapping[str, object]) -> JSON:
    return {"class": "serial", "config": {"policies": list(policies)}}


async def transactions(count: int, executor: PolicyExecutor) -> list[JSON]:
    """So many rows of the spend logs, of each scene on each route, streamed and full."""
    ways = [
        (scene, route, full) for scene, route, full in product(SCENES, ROUTES, (False, True)) if _speaks(*scene, route)
    ]
    return [await _row(executor, number, *ways[number % len(ways)]) for number in range(count)]


def _speaks(question: str, steps: Sequence[Step], route: str) -> bool:
    """Text completions have texts alone."""
    return route != "completions" or all(isinstance(step, Say) for step in steps)


async def _row(
    executor: PolicyExecutor, number: int, scene: tuple[str, Sequence[Step]], route: str, full: bool
) -> JSON:
    question, steps = scene
    wire = ROUTES[route]
    body = json.loads(json.dumps(wire.body).replace("hello", question)) | {"model": "scripted", "stream": not full}
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
        adapter, script = wire.adapter(ctx.final_request), Script(list(steps))
        if full:
            await executor.run_full(wire.full(script, body), adapter, ctx)
        else:
            async with aclosing(executor.run(wire.stream(script, body), adapter, ctx)) as delivered:
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
