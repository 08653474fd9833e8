"""LiteLLM's spend logs of streams with pings: the rows are those of the same streams without."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import RouteName
from tests.proxy.test_proxy_pings import MODELS, PINGS, SETTINGS, TEXT
from tests.support.clients import ROUTES
from tests.support.held import GATE, THEN
from tests.support.postgres import spend_logs
from tests.support.proxy import KEEPS_PROMPTS, Proxies
from tests.support.tapped import counted

REPLACED = "something else"


@pytest.mark.parametrize("route", ROUTES)
def test_a_row_is_the_same_with_pings(
    proxies: Proxies, provider: ScriptedProvider, postgres_url: str, route: RouteName
) -> None:
    """The text is a policy's own: LiteLLM logs it in place of the provider's."""
    provider.answers[MODELS[route]] = Answer([Say(TEXT)])

    def row(ping_s: float) -> Mapping[str, Any]:
        gate = Gate()
        provider.answers[GATE] = Answer([Wait(gate), Say("open")])
        settings = {**SETTINGS, "ping_s": ping_s}
        proxy = proxies.get(settings, database_url=postgres_url, general_settings=KEEPS_PROMPTS)
        key = proxy.virtual_key()
        if not ping_s:
            gate.open()
        headers = {"x-litellm-api-key": f"Bearer {key}", THEN: "replace"}
        with counted(proxy, PINGS[route], 4, gate.open) as own:
            assert ROUTES[route](own, MODELS[route], True, headers).text == REPLACED
        gate.open()
        [row] = spend_logs(postgres_url, key)
        return row

    pinged, silent = told(row(0.1)), told(row(0))
    assert pinged == silent
    assert pinged["outcome"] == "complete"
    assert REPLACED in pinged["answer"]
    assert pinged["logged"] == {REPLACED: True, TEXT: False}


def told(row: Mapping[str, Any]) -> dict[str, Any]:
    record, logged = row["metadata"]["spend_logs_metadata"]["luthien"], json.dumps(row["response"])
    return {
        "outcome": record["outcome"],
        "chunks": record["chunks"],
        "answer": str(record["final"]["answer"]),
        "original": str(record["original"]["answer"]),
        "counts": (row["spend"], row["total_tokens"], row["completion_tokens"]),
        "logged": {text: text in logged for text in (REPLACED, TEXT)},
    }
