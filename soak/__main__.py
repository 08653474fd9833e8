"""Mixed traffic with faults, for minutes, through a real proxy and beside it through the stock one.

    python -m soak [--minutes 10] [--rate 6]

Ends with 1 if a task, a socket or a record is not accounted for, an answer is wrong, or memory grew.
"""

import argparse
import asyncio
import shutil
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
from soak.accounts import accounts, rows_of
from soak.cases import scripted, settings
from soak.report import failures, print_accounts, print_samples
from soak.samples import Samples, gauges, sample, settle
from soak.traffic import PATIENCE_S, Sent, send_all, warm_up
from tests.support.postgres import running_postgres
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import ROOT, Proxy, proxy_config, running_proxy

GOVERNED, STOCK = "with luthien", "stock"
FULL_COLLECTIONS = 2
"""The first one still has what LiteLLM loaded at its start."""
FOLDER = ROOT / "build" / "soak"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=4, help="requests a second, to each of the two proxies")
    given = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    provider = ScriptedProvider()
    provider.answers.update(scripted())
    with ExitStack() as stack:
        database = stack.enter_context(running_postgres())
        provider_url = stack.enter_context(serve(_closing(provider)))
        proxies = {
            name: stack.enter_context(_proxy(FOLDER / name.replace(" ", "-"), provider_url, database, plugin))
            for name, plugin in ((GOVERNED, settings(provider_url)), (STOCK, None))
        }
        keys = {name: proxy.virtual_key() for name, proxy in proxies.items()}
        samples = {name: Samples(proxy.port, urlsplit(provider_url).port or 0) for name, proxy in proxies.items()}
        print(
            f"{given.minutes:g} minutes, {given.rate:g} requests a second to each proxy; their logs are in {FOLDER}",
            flush=True,
        )
        sent = asyncio.run(_run(proxies, keys, samples, given.rate, given.minutes * 60))
        told = accounts(sent[GOVERNED], rows_of(database, sent[GOVERNED]))
    print_accounts(told)
    print_samples(samples)
    failed = failures(samples[GOVERNED], samples[STOCK], told)
    print("\n" + ("\n".join(failed) if failed else "All is accounted for."))
    return 1 if failed else 0


def _closing(app: ASGIApp) -> ASGIApp:
    """`app`, with a connection for each request: LiteLLM cannot then pick one that is just being closed as idle, and
    each that is left over belongs to a request."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await app(scope, receive, send_closing)

    return answer


def _proxy(folder: Path, provider_url: str, database_url: str, plugin: Mapping[str, object] | None):
    config = proxy_config(provider_url, plugin)
    config["general_settings"] = {"cancel_on_disconnect": True}
    environment = {**prisma_environment(database_url), "LITELLM_WORKER_STARTUP_HOOKS": "soak.gauges:serve"}
    return running_proxy(config, folder, environment)


async def _warm_up(clients: Mapping[str, httpx.AsyncClient], url: str) -> None:
    """Sends every case to each proxy, again and again until the garbage collector of the one at `url` has gone
    through a whole round: it looks through everything only when a quarter more objects have lived for a while, and
    until then memory rises, with and without the plugin."""
    before = await gauges(url)
    while (await gauges(url)).full_collections < before.full_collections + FULL_COLLECTIONS:
        await asyncio.gather(*(warm_up(client) for client in clients.values()))


async def _run(
    proxies: Mapping[str, Proxy], keys: Mapping[str, str], samples: Mapping[str, Samples], rate: float, seconds: float
) -> dict[str, list[Sent]]:
    """Sends the same traffic to each proxy, and reads their gauges meanwhile."""
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=proxy.url,
                    headers={"Authorization": f"Bearer {keys[name]}"},
                    timeout=PATIENCE_S,
                    limits=httpx.Limits(max_connections=None),
                )
            )
            for name, proxy in proxies.items()
        }
        await _warm_up(clients, proxies[GOVERNED].url)
        for name, proxy in proxies.items():
            samples[name].first = await gauges(proxy.url, is_collected=True)
        readers = [asyncio.create_task(sample(proxy.url, samples[name])) for name, proxy in proxies.items()]
        sent = await asyncio.gather(*(send_all(client, rate, seconds) for client in clients.values()))
        for reader in readers:
            reader.cancel()
    await asyncio.gather(*(settle(proxy.url, samples[name]) for name, proxy in proxies.items()))
    return dict(zip(clients, sent, strict=True))


if __name__ == "__main__":
    sys.exit(main())
