"""Records of responses whose policies work for longer than LiteLLM gives to logging: whole, on every wire and mode."""

import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.recording.sqlite import RecordReader
from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.services.test_spend_logs import BODIES, MODELS, WIRES, record, text
from tests.support.lingering import PLACES, SECONDS
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEEPS_PROMPTS, KEY, Proxy, proxy_config, running_proxy
from tests.support.waiting import LIMIT_S, wait_until

SAID = "one orchid"
POLICY = {"class": "tests.support.lingering:Lingers", "timeout_s": 2 * SECONDS + 60}


@dataclass(frozen=True)
class Cell:
    """One request of the matrix."""

    route: RouteName
    is_streamed: bool
    place: str

    def __str__(self) -> str:
        return f"{self.route}, {'stream' if self.is_streamed else 'full'}, at the {self.place}"


CELLS = [Cell(route, streamed, place) for route in ROUTES for streamed in (True, False) for place in PLACES]


def ask(proxy: Proxy, key: str, cell: Cell) -> str:
    """The call id of a cell's request."""
    call_id, wire = str(uuid.uuid4()), WIRES[cell.route]
    model, body = MODELS[wire]["says"], {**BODIES[cell.route], "user": cell.place}
    if cell.route == "gemini":
        method = "streamGenerateContent?alt=sse" if cell.is_streamed else "generateContent"
        path = f"/v1beta/models/gemini/{model}:{method}"
    else:
        path, body = ROUTES[cell.route].path, {**body, "model": f"{wire}/{model}", "stream": cell.is_streamed}
    headers = {"Authorization": f"Bearer {key}", "x-litellm-call-id": call_id}
    answer = httpx.post(proxy.url + path, json=body, headers=headers, timeout=SECONDS + LIMIT_S)
    assert answer.is_success, f"{cell}: {answer.text}"
    return call_id


def all_asked(proxy: Proxy, key: str) -> dict[str, Cell]:
    """The cells, asked all at once, by the call ids of their requests."""
    with ThreadPoolExecutor(len(CELLS)) as threads:
        return dict(zip(threads.map(lambda cell: ask(proxy, key, cell), CELLS), CELLS, strict=True))


def assert_whole(rows: Mapping[str, list[Mapping[str, Any]]], asked: Mapping[str, Cell]) -> None:
    for call_id, cell in asked.items():
        assert len(rows[call_id]) == 1, cell
        [kept] = rows[call_id]
        assert kept["outcome"] == "complete", cell
        assert text(kept["final"]["answer"]) == text(kept["original"]["answer"]) == SAID, cell
        assert kept["milliseconds"] > SECONDS * 1000, cell


@dataclass(frozen=True)
class Asked:
    """A proxy, the key that asked it, and the cells of its requests."""

    proxy: Proxy
    key: str
    cells: Mapping[str, Cell]


@pytest.fixture(scope="module")
def asked(
    provider: ScriptedProvider, provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Asked]]:
    """A proxy that keeps rows and one that keeps a file, which linger at the same time."""
    provider.answers |= {models["says"]: Answer([Say(SAID)]) for models in MODELS.values()}
    folder, config = tmp_path_factory.mktemp("lingering"), proxy_config(provider_url, {"policy": POLICY})
    with_file = proxy_config(provider_url, {"policy": POLICY, "record": {"bodies": "always"}})
    environment = prisma_environment(postgres_url)
    with (
        running_proxy(config | {"general_settings": KEEPS_PROMPTS}, folder / "rows", environment) as rows,
        running_proxy(with_file, folder / "file", {}) as file,
        ThreadPoolExecutor(2) as threads,
    ):
        key = rows.virtual_key()
        of_rows, of_file = threads.submit(all_asked, rows, key), threads.submit(all_asked, file, KEY)
        yield {"rows": Asked(rows, key, of_rows.result()), "file": Asked(file, KEY, of_file.result())}


def test_rows_are_whole_though_a_policy_works_on(asked: Mapping[str, Asked], postgres_url: str) -> None:
    of = asked["rows"]
    rows = spend_logs(postgres_url, of.key, len(of.cells))
    assert_whole({id: [record(row) for row in rows if row["litellm_call_id"] == id] for id in of.cells}, of.cells)
    assert "unfinished" not in of.proxy.output


def test_the_file_has_whole_records_though_a_policy_works_on(asked: Mapping[str, Asked]) -> None:
    of = asked["file"]
    wait_until(lambda: len(_rows(of.proxy.records)) >= len(of.cells))
    rows = _rows(of.proxy.records)
    assert_whole({id: [record(row) for row in rows if row["litellm_call_id"] == id] for id in of.cells}, of.cells)
    assert "unfinished" not in of.proxy.output


def _rows(path: Path) -> list[dict[str, Any]]:
    reader = RecordReader(path)
    try:
        ids = [record(row)["transaction_id"] for row in reader.latest(None)]
        return reader.whole(ids)
    except sqlite3.Error:  # not begun yet
        return []
