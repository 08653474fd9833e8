"""A fault on every route, streamed and not, under both settings of `on_policy_error`: what the client, the operator
and the provider see of it."""

import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from luthien_litellm_hooks.cli.demo.proxy import HOST
from luthien_litellm_hooks.testing.provider import ScriptedProvider, SeenRequest
from tests.support.postgres import spend_logs
from tests.support.proxy import KEEPS_PROMPTS, Proxies, Proxy, deployment, proxy_config
from tests.support.taped import Got
from tests.support.waiting import wait_until

MODELS: Mapping[str, str] = {
    "chat": "gpt-4o",
    "messages": "claude-sonnet-4-5",
    "responses": "gpt-4o",  # LiteLLM streams Responses only of models that it knows
    "gemini": "gemini-2.5-flash",
}
MODES = ("block", "pass")
AT_ONCE = 8
"""How many cells a proxy is asked for at once, where their answers make it work."""
UNHEARD = f"http://{HOST}:9"
"""A port at which nobody listens: it is below those that anybody may take."""
NOTICE = re.compile(
    r"(?P<before>.*)\[luthien\] This answer was stopped because a policy check failed \(transaction (?P<id>[\w-]+)\)\.",
    re.DOTALL,
)
FORWARDING: Mapping[str, Any] = {**KEEPS_PROMPTS, "forward_client_headers_to_llm_api": True}
"""Settings of a proxy: the spend logs hold texts, and a provider gets the headers that name the cell and its answer."""
NOBODY = "nobody"
"""A model of each wire behind that port. LiteLLM knows it by its name."""
_KNOWN: Mapping[str, str] = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash-lite",
}


def faulty_proxy(
    proxies: Proxies, provider_url: str, database_url: str, policies: Sequence[Mapping[str, Any]], **luthien: Any
) -> Proxy:
    """The proxy of all tests of faults, with these policies in a row."""
    models = [*proxy_config(provider_url, None)["model_list"]]
    models += [deployment(provider_url, f"{wire}/{NOBODY}", model, api_base=UNHEARD) for wire, model in _KNOWN.items()]
    return proxies.get(
        {"policy": {"class": "serial", "config": {"policies": [*policies]}}, **luthien},
        database_url=database_url,
        general_settings=FORWARDING,
        sections={"model_list": models},
    )


@dataclass(frozen=True)
class Cell:
    """One transaction of the matrix. `mode` is what `on_policy_error` says."""

    fault: str
    route: str
    is_streamed: bool
    mode: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()), compare=False)

    def __str__(self) -> str:
        return "-".join([self.fault.replace(" ", "_"), self.route, ("full", "stream")[self.is_streamed], self.mode])

    def ask(self, proxy: Proxy, key: str, answer: str, got: Got, models: Mapping[str, str] = MODELS) -> None:
        """Asks as a client with this key, and has the provider give this answer. The headers also choose the
        policy and tell it what to do."""
        headers = {"x-fault": self.fault, "x-mode": self.mode, "x-answer": answer}
        headers |= {"x-cell": self.id, "x-litellm-call-id": self.id}
        got.ask(proxy, key, self.route, models[self.route], self.is_streamed, headers)


def matrix(faults: Iterable[str]) -> list[Cell]:
    return [
        Cell(fault, route, is_streamed, mode)
        for fault in faults
        for route in MODELS
        for is_streamed in (True, False)
        for mode in MODES
    ]


def when(fault: str, mode: str) -> dict[str, Any]:
    """The `when` of a policy for these cells; `fault` is a glob."""
    return {"headers": {"x-fault": fault, "x-mode": mode}}


@dataclass(frozen=True)
class Seen:
    """What the client and the operator saw of one transaction; `row` is LiteLLM's."""

    got: Got
    row: Mapping[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        return self.row["metadata"]["spend_logs_metadata"]["luthien"]

    @property
    def errors(self) -> list[str]:
        """The kinds of what failed, as the record has them."""
        return [decision["error"] for decision in self.record["decisions"] if "error" in decision]

    @property
    def delivered(self) -> str:
        """The text that left, as the record has it."""
        content = self.record["final"]["answer"]["content"]
        return "".join(block["text"] for block in content if block["type"] == "text")


Matrix = Mapping[Cell, Seen]


def see_all(
    url: str, key: str, cells: Sequence[Cell], ask: Callable[[Cell, Got], None], at_once: int = AT_ONCE
) -> Matrix:
    """Asks for all cells, with `key` that has asked for nothing else, and waits for their rows."""
    got = {cell: Got() for cell in cells}
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda cell: ask(cell, got[cell]), cells))
    rows = spend_logs(url, key, len(cells))
    while not {cell.id for cell in cells} <= {row["litellm_call_id"] for row in rows}:
        rows = spend_logs(url, key, len(rows) + 1)  # some are of judges' calls

    def row_of(cell: Cell) -> Mapping[str, Any]:
        own = [row for row in rows if row["litellm_call_id"] == cell.id]
        assert len(own) == 1, f"{cell} has {len(own)} rows"
        return own[0]

    return {cell: Seen(got[cell], row_of(cell)) for cell in cells}


def check_provider(provider: ScriptedProvider, cell: Cell, *, asked: bool, left: bool) -> None:
    """Fails unless the provider was asked for the cell once or never, and saw the proxy leave before the end or not."""

    def times(log: Sequence[SeenRequest]) -> int:
        return sum(request.headers.get("x-cell") == cell.id for request in log)

    assert times(provider.requests) == asked
    wait_until(lambda: times(provider.disconnects) == left)
