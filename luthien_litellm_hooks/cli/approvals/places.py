"""Places of approvals: a proxy, its file, or its Redis."""

import asyncio
import getpass
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast
from urllib.parse import urldefrag

import httpx
from pydantic import ValidationError

from luthien_litellm_hooks.errors import ConfigError, LuthienError, StateError
from luthien_litellm_hooks.policies.rules.likeness import exact_condition, like_condition
from luthien_litellm_hooks.policy.asked_calls import AskedCall, UnknownApprovalError, all_calls, decide, find_call
from luthien_litellm_hooks.policy.grants import Grant, Scope, all_grants, approve_with_grant, revoke
from luthien_litellm_hooks.recording.state import RedisPlace, RedisStore, SqliteStore, Store, approvals_path
from luthien_litellm_hooks.telemetry.redis_clients import asynchronous_client

T = TypeVar("T")
Word = Literal["approve", "deny"]
_TIMEOUT_S = 30.0
_OF_REDIS = ("redis://", "rediss://")


class RefusedDecisionError(LuthienError):
    """Refusal of a decision by the proxy."""


class Place(Protocol):
    """A place of approvals. Its methods raise `ConfigError` if it cannot be used."""

    def calls(self, *, every: bool) -> Sequence[AskedCall]:
        """Returns the calls that wait, or with `every` the decided ones too."""
        ...

    def call(self, id: str) -> AskedCall:
        """Returns a call. Raises `UnknownApprovalError`."""
        ...

    def decide(self, id: str, word: Word, arguments: str | None, message: str | None) -> AskedCall:
        """Decides about a call. Raises another `LuthienError` for a decision that does not count."""
        ...

    def approve_with_grant(self, id: str, scope: Scope, *, like: bool) -> tuple[AskedCall, Grant]:
        """Approves a call, and gives a grant. Raises what `decide` raises."""
        ...

    def grants(self) -> Sequence[Grant]:
        """Returns the grants that hold."""
        ...

    def revoke(self, id: str) -> Grant:
        """Ends a grant. Raises another `LuthienError` if there is none, or it may not be ended."""
        ...


@dataclass(frozen=True, slots=True)
class StorePlace:
    """The store of a proxy, for those who may write it."""

    opened: Callable[[], AbstractAsyncContextManager[Store]]

    def calls(self, *, every: bool) -> Sequence[AskedCall]:
        found = self._run(lambda store: all_calls(store))
        return [call for call in found if every or call.state == "pending"]

    def call(self, id: str) -> AskedCall:
        return self._run(lambda store: find_call(store, id))

    def decide(self, id: str, word: Word, arguments: str | None, message: str | None) -> AskedCall:
        state = "approved" if word == "approve" else "denied"
        by = getpass.getuser()
        return self._run(lambda store: decide(store, id, state, by=by, arguments=arguments, message=message))

    def approve_with_grant(self, id: str, scope: Scope, *, like: bool) -> tuple[AskedCall, Grant]:
        condition_of, by = like_condition if like else exact_condition, getpass.getuser()
        return self._run(lambda store: approve_with_grant(store, id, scope, condition_of, by=by))

    def grants(self) -> Sequence[Grant]:
        return self._run(lambda store: all_grants(store))

    def revoke(self, id: str) -> Grant:
        return self._run(lambda store: revoke(store, id))

    def _run(self, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            async with self.opened() as store:
                return await work(store)

        try:
            return asyncio.run(run())
        except StateError as error:
            raise ConfigError(f"The approvals cannot be read: {error}") from None


@asynccontextmanager
async def _file(path: Path) -> AsyncGenerator[Store]:
    """Opens the file of a proxy without a database and without a Redis."""
    _check_presence(path)
    store = SqliteStore(path)
    try:
        yield store
    finally:
        store.close()


def _check_presence(path: Path) -> None:
    if not path.expanduser().exists():
        raise ConfigError(
            f"There are no approvals in {path}. Give the --url of another user's proxy, or of one with a database, "
            "or the redis:// URL of one with a Redis."
        )


@asynccontextmanager
async def _redis(url: str) -> AsyncGenerator[Store]:
    """Opens the Redis of a proxy. The fragment of its URL is the namespace of LiteLLM's keys."""
    address, namespace = urldefrag(url)
    try:
        client = asynchronous_client(address)
    except ValueError as error:
        raise ConfigError(f"--url: {error}") from None
    try:
        yield RedisStore(lambda: RedisPlace(client, namespace))
    finally:
        await client.aclose()


@dataclass(frozen=True, slots=True)
class ProxyApi:
    """A running proxy, for the holder of an admin's or an approver's key."""

    url: str
    key: str

    def calls(self, *, every: bool) -> Sequence[AskedCall]:
        found = self._ask("GET", "approvals", params={"state": "all" if every else "pending"})
        return [_read(one) for one in found.get("approvals", ())]

    def call(self, id: str) -> AskedCall:
        return _read(self._ask("GET", f"approvals/{id}"))

    def decide(self, id: str, word: Word, arguments: str | None, message: str | None) -> AskedCall:
        given = {"decision": word, "arguments": arguments, "message": message}
        return _read(self._ask("POST", f"approvals/{id}", json=given))

    def approve_with_grant(self, id: str, scope: Scope, *, like: bool) -> tuple[AskedCall, Grant]:
        given = {"decision": "approve", "grant": {"scope": scope, "like": like}}
        found = self._ask("POST", f"approvals/{id}", json=given)
        return _read(found), _read_grant(found.get("grant"))

    def grants(self) -> Sequence[Grant]:
        return [_read_grant(one) for one in self._ask("GET", "grants").get("grants", ())]

    def revoke(self, id: str) -> Grant:
        return _read_grant(self._ask("DELETE", f"grants/{id}"))

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        if not (self.key and self.key.isascii() and self.key.isprintable()):
            raise ConfigError("The key is missing, or has characters that no header can carry: set LITELLM_MASTER_KEY.")
        try:
            response = httpx.request(
                method,
                f"{self.url.rstrip('/')}/luthien/{path}",
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=_TIMEOUT_S,
                **given,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(f"{self.url} cannot be reached: {error}") from None
        if response.is_success:
            return cast(dict[str, Any], response.json())
        said = f"{self.url}: HTTP {response.status_code}: {_message(response)}"
        match response.status_code:
            case 404:
                raise UnknownApprovalError(said)
            case 400 | 403 | 409:
                raise RefusedDecisionError(said)
            case _:
                raise ConfigError(said)


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return "no message"


def _read(found: dict[str, Any]) -> AskedCall:
    try:
        return AskedCall.model_validate(found)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"The proxy's approvals have a form that this version cannot read: {where}") from None


def _read_grant(found: object) -> Grant:
    try:
        return Grant.model_validate(found)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"The proxy's grants have a form that this version cannot read: {where}") from None


def place_of(url: str | None, key: str, records: Path | None) -> Place:
    """Returns the proxy or the Redis at `url`, or else the file beside the records."""
    if url is not None:
        return StorePlace(partial(_redis, url)) if url.startswith(_OF_REDIS) else ProxyApi(url, key)
    path = records.with_name("approvals.sqlite") if records is not None else approvals_path(os.environ)
    return StorePlace(partial(_file, path))
