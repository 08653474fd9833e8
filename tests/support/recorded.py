"""Rows of LiteLLM's spend logs with records of real transactions, as the plugin writes them."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg

from luthien_litellm_hooks import Policy, PolicyContext, PolicyExecutor, Request, SimplePolicy, ToolCall
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.testing.routes import ROUTES
from tests.support.chat import pull

QUESTION = "Free some space on this machine, please."
REQUEST = {
    "model": "gpt-5",
    "messages": [
        {"role": "system", "content": "You are careful.\nYou say what you do."},
        {"role": "user", "content": QUESTION},
    ],
    "temperature": 0.2,
}
COMMAND = 'find / -name "*.log"\nrm -rf /var/lib/postgresql'
ANSWER = Answer(
    [
        Think("The biggest folder is the database's."),
        Say("I will remove what is not needed."),
        Call("bash", json.dumps({"command": COMMAND, "timeout": 30}), id="call_1"),
    ]
)
TIME = datetime(2026, 11, 21, 12, 34, 56, tzinfo=UTC)
_NUMBERS = count()


class NoDeletes(ToolGatePolicy):
    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        if "rm -rf" not in tool_call.arguments:
            return ALLOW
        return Verdict(
            "block", message="This command was not run.", reason="it deletes a database", score=0.97, evidence="rm -rf"
        )


class AsksPolitely(SimplePolicy):
    async def on_request_simple(self, request: Request) -> Request:
        return request.replace(model="gpt-5-mini", temperature=0)


class Untouched(SimplePolicy):
    pass


async def recorded(
    policy: Policy, answer: Answer = ANSWER, *, with_bodies: bool = True, transaction_id: str = ""
) -> dict[str, Any]:
    """The record of a streamed chat answer, of a new transaction unless it is named."""
    way = ROUTES["chat"]
    recorder = DefaultTransactionRecorder()
    ctx = PolicyContext(transaction_id or str(uuid.uuid4()), Request(REQUEST), recorder=recorder)
    executor = PolicyExecutor(policy)
    final = await executor.on_request(ctx)
    assert isinstance(final, Request)
    await recorder.record_request(REQUEST, final.body)
    await pull(executor.run(way.stream(answer, final.body), adapter_for(way.call_type, final), ctx))
    return transaction_record(ctx, recorder, "8c04d5f1", [(type(policy).__name__, "3f2a9c11")], with_bodies=with_bodies)


def row(record: Mapping[str, Any] | None, **columns: Any) -> dict[str, Any]:
    """A row of the spend logs, a second older than the one before, with other columns where they are given."""
    slot = {} if record is None else {"luthien": record}
    return {
        "request_id": f"chatcmpl-{uuid.uuid4().hex[:12]}",
        "litellm_call_id": str(uuid.uuid4()),
        "call_type": "acompletion",
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "model": "gpt-5-2026-01-01",
        "model_group": "gpt-5",
        "startTime": TIME - timedelta(seconds=next(_NUMBERS)),
        "metadata": {"user_api_key_alias": "build-agent", "spend_logs_metadata": slot},
        **columns,
    }


def insert(url: str, *rows: Mapping[str, Any]) -> None:
    """Writes the rows, where LiteLLM would."""
    with psycopg.connect(url) as connection:
        for columns in rows:
            values = {**columns, "startTime": columns["startTime"].astimezone(UTC).replace(tzinfo=None)}
            connection.execute(
                """INSERT INTO "LiteLLM_SpendLogs" (request_id, litellm_call_id, call_type, api_key, model, model_group,
                "startTime", "endTime", metadata) VALUES (%(request_id)s, %(litellm_call_id)s, %(call_type)s,
                %(api_key)s, %(model)s, %(model_group)s, %(startTime)s, %(startTime)s, %(metadata)s)""",
                {**values, "metadata": json.dumps(values["metadata"])},
            )
