"""What `tool_call_judge` costs in time, beside the stock proxy: `python -m benchmarks.judge_latency`.

A scripted model says a few words and calls tools, all at once; a scripted judge takes 300 ms for each
call. The proxies are asked in turn, so that what else the machine does falls on all alike.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
from tests.support.proxy import Proxy, proxy_config, running_proxy

JUDGE_SECONDS = 0.3
ROUNDS = 40
WARM_UP = 5
TOOLS = (1, 3)


class _Delay(Gate):
    """Opens by itself, for each who comes."""

    async def passed(self) -> None:
        await asyncio.sleep(JUDGE_SECONDS)


@contextmanager
def proxies() -> Iterator[tuple[ScriptedProvider, dict[str, Proxy]]]:
    """The stock proxy, one with a policy that does nothing and one with the judge."""
    provider = ScriptedProvider()
    provider.answers["judge"] = Answer([Wait(_Delay()), Say('{"probability": 0.1, "explanation": "fine"}')])
    for count in TOOLS:
        calls = [Call("look", "{}", id=f"call_{number}") for number in range(count)]
        provider.answers[f"tools-{count}"] = Answer([Say("Early."), *calls], piece=6)
    with serve(provider) as url, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config = {"model": "openai/judge", "api_base": f"{url}/v1", "api_key": "k"}
        policies = {"stock": None, "noop": {"class": "noop"}, "judged": {"class": "tool_call_judge", "config": config}}
        running: dict[str, Proxy] = {}
        for name, policy in policies.items():
            settings = proxy_config(url, policy and {"policy": policy})
            running[name] = stack.enter_context(running_proxy(settings, Path(folder) / name, {}))
        yield provider, running


def ask(proxy: Proxy, tools: int) -> tuple[float, float]:
    """Milliseconds from the request to its first text, and to its end."""
    body = {"model": f"openai/tools-{tools}", "stream": True, "messages": [{"role": "user", "content": "go"}]}
    began = time.perf_counter()
    with proxy.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "Early." in line)
        first = time.perf_counter()
        for _ in lines:
            pass
    return (first - began) * 1000, (time.perf_counter() - began) * 1000


def main() -> None:
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with proxies() as (provider, running):
        for round_number in range(WARM_UP + ROUNDS):
            if round_number == WARM_UP:
                times.clear()
                provider.requests.clear()
            for tools in TOOLS:
                for name, proxy in running.items():
                    times.setdefault((name, tools), []).append(ask(proxy, tools))
        asked = sum(request.body["model"] == "judge" for request in provider.requests)
    print(f"the judge takes {JUDGE_SECONDS * 1000:.0f} ms; {ROUNDS} requests each; milliseconds, best / median")
    print(f"{'':16}{'first text':>20}{'whole answer':>20}")
    for (name, tools), measured in times.items():
        cells = [f"{min(column):.1f} / {median(column):.1f}" for column in zip(*measured, strict=True)]
        print(f"{name}, {tools} tools".ljust(16) + "".join(f"{cell:>20}" for cell in cells))
    print(f"calls to the judge for each request with 1 and one with 3 tools: {asked / ROUNDS:g}")


if __name__ == "__main__":
    main()
