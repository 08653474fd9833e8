"""`luthien-hooks doctor`: asks each route of a running proxy for proof that a policy governs it."""

import json
import secrets
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Literal
from urllib.parse import quote

import httpx
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from luthien_litellm_hooks.cli.doctor.verdicts import Finding, Verdict, judge_error, judge_event, judge_reply, shorten
from luthien_litellm_hooks.cli.output import complain, print_json
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.hooks import HEADER
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import WireFormat

Mode = Literal["full", "stream", "websocket"]
QUESTION = "Name a colour."
_MAX_TOKENS = 16  # the smallest number that every provider accepts
_MESSAGES = {"messages": [{"role": "user", "content": QUESTION}]}
_CHAT = {**_MESSAGES, "max_tokens": _MAX_TOKENS}
_PASS_THROUGH: Mapping[str, Mapping[str, Any]] = {
    "/anthropic/v1/messages": _CHAT,
    "/openai/v1/chat/completions": _CHAT,
}
_QUEUE = "/queue/chat/completions"
_ONLY_FULL: Mapping[str, Mapping[str, Any]] = {
    "/v1/threads/x/runs": {"assistant_id": "x"},
    "/v1/rag/query": {**_MESSAGES, "retrieval_config": {}},
}
_TIMEOUT_S = 60.0
_AT_ONCE = 4
_NO_REUSE = httpx.Limits(max_keepalive_connections=0)  # the server closes a connection after its own errors
_MAX_MODELS = 2
_MODES_OF_TEXT = (None, "chat", "completion", "responses")  # None: a model unknown to LiteLLM
_STYLES: dict[Verdict, str] = {
    "governed": "green",
    "refused": "green",
    "not available": "yellow",
    "NOT GOVERNED": "bold red",
}
_WIDTH_OF_A_FILE = 200


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to one route. `body` is also the first message on a websocket."""

    route: str
    mode: Mode
    model: str
    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """A probe and its finding."""

    probe: Probe
    finding: Finding


def run_doctor(url: str, key: str, models: Sequence[str], *, as_json: bool) -> int:
    """Prints the results. Returns 1 if a route is not governed, 2 if the proxy could not be asked."""
    try:
        results = examine(url, key.strip(), models)
    except ConfigError as error:
        complain(str(error))
        return 2
    print_json({"results": _rows(results)}) if as_json else _print_table(results)
    return int(any(result.finding.verdict == "NOT GOVERNED" for result in results))


def _rows(results: Sequence[Result]) -> list[dict[str, str]]:
    return [
        {
            "route": result.probe.route,
            "mode": result.probe.mode,
            "model": result.probe.model,
            "verdict": result.finding.verdict,
            "reason": result.finding.reason,
        }
        for result in results
    ]


def _print_table(results: Sequence[Result]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("route", "mode", "model"):
        table.add_column(title, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for result in results:
        probe, finding = result.probe, result.finding
        verdict = Text(finding.verdict, _STYLES[finding.verdict])
        table.add_row(Text(probe.route), probe.mode, Text(probe.model), verdict, Text(finding.reason))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    console.print(table)
    counts = Counter(result.finding.verdict for result in results)
    console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES))


def examine(url: str, key: str, models: Sequence[str]) -> list[Result]:
    """Probes every route of the proxy at `url`, with `models` or else the proxy's own first ones.

    Raises `ConfigError` if the proxy cannot be reached or used with `key`.
    """
    with _client(url, key) as client:
        served = _served_models(client)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(partial(_ask, client), probes(models or _choose(served))))


@contextmanager
def _client(url: str, key: str) -> Generator[httpx.Client]:
    if not (key and key.isascii() and key.isprintable()):
        raise ConfigError("The key is empty, or has characters that no header can carry.")
    try:
        headers = {"Authorization": f"Bearer {key}"}
        client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S, limits=_NO_REUSE)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url} is not the address of a proxy: {error}") from error
    with client:
        yield client


def _served_models(client: httpx.Client) -> list[dict[str, Any]]:
    try:
        response = client.get("/v1/models", params={"return_wildcard_routes": True})
    except httpx.HTTPError as error:
        raise ConfigError(f"{client.base_url} cannot be reached: {error}") from error
    if not response.is_success:  # 400 or 401: unknown key
        raise ConfigError(
            f"{client.base_url} cannot be used with this key: /v1/models returned HTTP {response.status_code}."
        )
    try:
        return [model for model in response.json()["data"] if isinstance(model["id"], str)]
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{client.base_url} is not a LiteLLM proxy: it lists no models.") from error


def _choose(served: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the first models that the operator has named. LiteLLM lists wildcards after them, each followed by
    guesses of models that may not exist."""
    named = takewhile(lambda model: "*" not in model["id"], served)
    chosen = [model["id"] for model in named if model.get("mode") in _MODES_OF_TEXT]
    if not chosen:
        raise ConfigError("The proxy names no model for text, or only wildcards: name one with --model.")
    return chosen[:_MAX_MODELS]


def _ask(client: httpx.Client, probe: Probe) -> Result:
    ask = _ask_websocket if probe.mode == "websocket" else _ask_http
    finding = ask(client, probe)
    key = client.headers["Authorization"].removeprefix("Bearer ")
    return Result(probe, Finding(finding.verdict, shorten(finding.reason.replace(key, "***"))))


def _ask_http(client: httpx.Client, probe: Probe) -> Finding:
    nonce = secrets.token_urlsafe(16)
    try:
        response = client.post(probe.path, json=dict(probe.body), headers={HEADER: nonce})
    except httpx.HTTPError as error:
        return judge_error(f"no reply: {type(error).__name__}")
    return judge_reply(response.status_code, response.text, nonce)


def _ask_websocket(client: httpx.Client, probe: Probe) -> Finding:
    url = f"ws{str(client.base_url).removeprefix('http').rstrip('/')}{probe.path}"
    headers = {"Authorization": client.headers["Authorization"], HEADER: secrets.token_urlsafe(16)}
    try:
        with connect(url, additional_headers=headers, open_timeout=_TIMEOUT_S) as socket:
            with suppress(ConnectionClosed):  # events before the close can still be read
                socket.send(json.dumps(probe.body))
            return judge_event(socket.recv(timeout=_TIMEOUT_S))
    except InvalidStatus as error:
        status = error.response.status_code
        return Finding("refused", "closed with HTTP 403") if status == 403 else judge_error(f"HTTP {status}")
    except ConnectionClosed as error:
        return judge_error(f"closed at once: {error.rcvd.reason if error.rcvd else 'no reason'}")
    except (OSError, WebSocketException) as error:
        return judge_error(f"no reply: {type(error).__name__}")


def probes(models: Sequence[str]) -> Iterator[Probe]:
    """Yields probes of the governable routes with each of `models`, then of the routes to be closed with the first."""
    for model in models:
        for wire in FORMATS:
            yield from _governable(wire, model)
    yield from _to_be_closed(models[0])


def _governable(wire: WireFormat, model: str) -> Iterator[Probe]:
    """Yields the questions on a wire. Model and mode are in the body, or in the path."""
    body = wire.question(QUESTION, _MAX_TOKENS)
    if not wire.stream_paths:
        yield from _both(wire.paths[0], model, {**body, "model": model})
        return
    full, stream = (path.replace("{model}", quote(model)) for path in (wire.paths[0], wire.stream_paths[0]))
    yield Probe(wire.paths[0], "full", model, full, body)
    yield Probe(wire.stream_paths[0], "stream", model, f"{stream}?{wire.stream_query}", body)


def _both(route: str, model: str, body: Mapping[str, Any]) -> Iterator[Probe]:
    yield Probe(route, "full", model, route, body)
    yield Probe(route, "stream", model, route, {**body, "stream": True})


def _to_be_closed(model: str) -> Iterator[Probe]:
    """Yields probes of routes that no policy can govern. A pass-through route forwards the model's name as it is, so
    the probe omits LiteLLM's prefix."""
    own_name = model.rpartition("/")[2]
    for route, body in _PASS_THROUGH.items():
        yield from _both(route, own_name, {**body, "model": own_name})
    yield from _both(_QUEUE, model, {**_CHAT, "model": model, "priority": 0})
    for route, body in _ONLY_FULL.items():
        yield Probe(route, "full", model, route, {**body, "model": model})
    yield _websocket("/v1/realtime", model, {"response": {"instructions": QUESTION}})
    yield _websocket("/v1/responses", model, {"model": model, "input": QUESTION})


def _websocket(route: str, model: str, fields: Mapping[str, Any]) -> Probe:
    path = f"{route}?model={quote(model, safe='')}"
    return Probe(route, "websocket", model, path, {"type": "response.create", **fields})
