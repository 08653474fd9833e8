"""Webhooks: signed notes in JSON, posted beside the responses. A failure is logged, and delays nothing."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from luthien_litellm_hooks.telemetry.log_lines import logger

SIGNATURE = "Luthien-Signature"
_TIMEOUT_S = 10.0
_WAITS_S = (1.0, 5.0)
"""Seconds between the tries."""
_MAX_WAITING = 100


@dataclass(frozen=True, slots=True)
class Webhook:
    """Address of notes. The secret signs them; without it they are unsigned. The URL may be a secret as well."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)


def signature_of(secret: str, body: bytes, seconds: int) -> str:
    """Returns the signature of a note that was sent at `seconds`: HMAC-SHA256 of both, with a dot between."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


class Webhooks:
    """Sender of one process. Each note is a task of the running event loop, tried three times."""

    def __init__(self) -> None:
        self._tasks = set[asyncio.Task[None]]()
        self._client: httpx.AsyncClient | None = None

    def send(self, webhook: Webhook, note: Mapping[str, object]) -> None:
        """Begins to post a note. Never waits, never raises."""
        if len(self._tasks) >= _MAX_WAITING:
            logger.error("a note for the webhook at %s is dropped: %d are waiting", _host(webhook), _MAX_WAITING)
            return
        task = asyncio.create_task(self._post(webhook, json.dumps(note).encode()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, webhook: Webhook, body: bytes) -> None:
        failure = await self._try(webhook, body)
        for wait_s in _WAITS_S:
            if not failure:
                return
            logger.warning("the webhook at %s failed, and is tried again: %s", _host(webhook), failure)
            await asyncio.sleep(wait_s)
            failure = await self._try(webhook, body)
        if failure:
            logger.error("the webhook at %s failed, and is not told: %s", _host(webhook), failure)

    async def _try(self, webhook: Webhook, body: bytes) -> str:
        """Posts a note. Returns the failure, "" for none."""
        try:
            status = await self._status(webhook, body)
        except Exception as error:  # the client has many; its text may hold the URL
            return type(error).__name__
        return "" if 200 <= status < 300 else f"HTTP {status}"

    async def _status(self, webhook: Webhook, body: bytes) -> int:
        if self._client is None:
            self._client = await asyncio.to_thread(httpx.AsyncClient, timeout=_TIMEOUT_S)  # reads certificates
        headers = {"Content-Type": "application/json"}
        if webhook.secret is not None:
            headers[SIGNATURE] = signature_of(webhook.secret, body, int(time.time()))
        async with asyncio.timeout(_TIMEOUT_S):
            return (await self._client.post(webhook.url, content=body, headers=headers)).status_code


def _host(webhook: Webhook) -> str:
    """Returns the place for the log, without the path: that of a chat's webhook is a secret."""
    try:
        return urlsplit(webhook.url).hostname or "?"
    except ValueError:
        return "?"
