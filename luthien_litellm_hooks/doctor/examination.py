"""Asks a running proxy, and collects what each reply proves."""

import json
import secrets
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from luthien_litellm_hooks.doctor.probes import Probe, probes
from luthien_litellm_hooks.doctor.verdicts import Finding, judge_error, judge_event, judge_reply, shorten
from luthien_litellm_hooks.doctor_proof import HEADER
from luthien_litellm_hooks.errors import ConfigError

_TIMEOUT_S = 60.0
_AT_ONCE = 4
_NO_REUSE = httpx.Limits(max_keepalive_connections=0)  # after an error of its own the server closes a connection
_MAX_MODELS = 2
_MODES_OF_TEXT = (None, "chat", "completion", "responses")  # None of a model that LiteLLM does not know


@dataclass(frozen=True, slots=True)
class Result:
    """A probe and what came of it."""

    probe: Probe
    finding: Finding


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
        raise ConfigError(f"{url} is no address of a proxy: {error}") from error
    with client:
        yield client


def _served_models(client: httpx.Client) -> list[dict[str, Any]]:
    try:
        response = client.get("/v1/models", params={"return_wildcard_routes": True})
    except httpx.HTTPError as error:
        raise ConfigError(f"{client.base_url} cannot be reached: {error}") from error
    if not response.is_success:  # of a key that it does not know, LiteLLM says 400 or 401
        raise ConfigError(
            f"{client.base_url} cannot be used with this key: /v1/models answered HTTP {response.status_code}."
        )
    try:
        return [model for model in response.json()["data"] if isinstance(model["id"], str)]
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{client.base_url} is no LiteLLM proxy: it lists no models.") from error


def _choose(served: Sequence[dict[str, Any]]) -> list[str]:
    """The first models that the operator has named. LiteLLM lists wildcards after them, each followed by
    what it may stand for, which may not exist."""
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
            with suppress(ConnectionClosed):  # what came before the close is still to be read
                socket.send(json.dumps(probe.body))
            return judge_event(socket.recv(timeout=_TIMEOUT_S))
    except InvalidStatus as error:
        status = error.response.status_code
        return Finding("refused", "closed with HTTP 403") if status == 403 else judge_error(f"HTTP {status}")
    except ConnectionClosed as error:
        return judge_error(f"closed at once: {error.rcvd.reason if error.rcvd else 'no reason'}")
    except (OSError, WebSocketException) as error:
        return judge_error(f"no reply: {type(error).__name__}")
