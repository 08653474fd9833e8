"""What of ours still runs in a proxy, for a test that asks."""

import asyncio
import json
from pathlib import Path

import luthien_litellm_hooks
from luthien_litellm_hooks import Answer, Policy, PolicyContext, Request
from tests.support.proxy import Proxy

OURS = str(Path(luthien_litellm_hooks.__file__).parent)


class Census(Policy):
    """Answers the user `census` with the names of the tasks that run code of the plugin; lets all else pass."""

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        if request.body.get("user") != "census":
            return request
        return Answer(json.dumps(sorted(task.get_name() for task in asyncio.all_tasks() if _is_ours(task))))


def _is_ours(task: asyncio.Task[object]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return task is not asyncio.current_task() and str(getattr(code, "co_filename", "")).startswith(OURS)


def tasks(proxy: Proxy) -> list[str]:
    """What the policy answers. It asks on a route that the test need not know."""
    body = {"model": "openai/none", "messages": [{"role": "user", "content": "x"}], "user": "census"}
    response = proxy.http.post("/v1/chat/completions", json=body)
    return json.loads(response.json()["choices"][0]["message"]["content"])
