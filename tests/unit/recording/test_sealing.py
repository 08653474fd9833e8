"""Sealed records in process: what stays in clear, and who opens the rest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import litellm
import pytest
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.common_utils.encrypt_decrypt_utils import encrypt_value_helper

from luthien_litellm_hooks import Spent
from luthien_litellm_hooks.config.check import check
from luthien_litellm_hooks.config.check.source import read_source
from luthien_litellm_hooks.hooks import spend_logs
from luthien_litellm_hooks.hooks.loggers import GovernedLogging, redacted_error
from luthien_litellm_hooks.hooks.spend_logs import stores_bodies
from luthien_litellm_hooks.recording.record import clear_part, transaction_record
from luthien_litellm_hooks.recording.sealing import seal, unseal
from tests.unit.recording.test_transaction_record import POLICIES, ended

SALT = "sk-salt"


@pytest.fixture(autouse=True)
def _salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_SALT_KEY", SALT)


async def record() -> dict[str, Any]:
    return transaction_record(*await ended(), "v1", POLICIES, with_bodies=True)


async def test_in_clear_stand_the_outcome_the_actions_and_counts() -> None:
    whole = await record()
    sealed = seal(whole)
    decisions = [{key: one[key] for key in ("policy", "action", "milliseconds")} for one in whole["decisions"]]
    counts = {name: whole[name] for name in ("transaction_id", "version", "policies", "outcome", "changed", "chunks")}
    assert sealed.pop("sealed")
    assert sealed == clear_part(whole) == {**counts, "milliseconds": whole["milliseconds"], "decisions": decisions}


async def test_of_the_judges_calls_their_sum_stands_in_clear_for_who_pays_for_them() -> None:
    ctx, recorder = await ended()
    ctx.spending.add(Spent(2, 30, 0.1 + 0.2))
    ctx.decisions[0] = replace(ctx.decisions[0], spent=ctx.spent)
    sealed = seal(transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True))
    assert sealed["spent"] == {"calls": 2, "tokens": 30, "cost": 0.3}
    assert set(sealed["decisions"][0]) == {"policy", "action", "milliseconds"}
    whole = unseal(sealed["sealed"], [SALT])
    assert whole is not None
    assert (whole["decisions"][0]["calls"], whole["decisions"][0]["cost"]) == (2, 0.3)


@pytest.mark.parametrize("algorithm", ["xsalsa20-poly1305", "aes-256-gcm"])
async def test_the_rest_is_opened_with_the_salt_key(monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    monkeypatch.setitem(proxy_server.general_settings, "encryption_algorithm", algorithm)
    whole = await record()
    sealed = seal(whole)["sealed"]
    assert unseal(sealed, ["another", SALT]) == json.loads(json.dumps(whole))
    assert unseal(sealed, ["another"]) is None
    assert unseal(sealed[:-8] + "AAAAAAA=", [SALT]) is None


async def test_without_a_salt_key_the_master_key_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LITELLM_SALT_KEY")
    monkeypatch.setattr(proxy_server, "master_key", "sk-master")
    whole = await record()
    assert unseal(seal(whole)["sealed"], ["sk-master"]) == json.loads(json.dumps(whole))


@pytest.mark.parametrize("salt", [None, ""], ids=["no key", "an empty key"])
async def test_without_a_key_nothing_but_the_clear_part_is_kept(
    monkeypatch: pytest.MonkeyPatch, salt: str | None
) -> None:
    monkeypatch.setattr(proxy_server, "master_key", None)
    monkeypatch.delenv("LITELLM_SALT_KEY")
    if salt is not None:
        monkeypatch.setenv("LITELLM_SALT_KEY", salt)
    whole = await record()
    assert seal(whole) == clear_part(whole) | {"sealed": None}


@pytest.mark.parametrize("text", ["sk-of-a-provider", '{"luthien_record": 1}', "[]"])
def test_what_else_litellm_encrypts_is_no_record(text: str) -> None:
    assert unseal(encrypt_value_helper(text), [SALT]) is None


def test_an_error_tells_loggers_its_class_and_status_alone() -> None:
    for kind in (litellm.BadRequestError, litellm.JSONSchemaValidationError):
        given = {"message": "orchid", "model": "m", "llm_provider": "p"}
        if kind is litellm.JSONSchemaValidationError:
            error: Any = kind(model="m", llm_provider="p", raw_response="orchid", schema="{}")
        else:
            error = kind(**given)
        error.body = {"failed_generation": "orchid"}
        told: Any = redacted_error(error)
        assert type(told) is kind
        assert (told.status_code, told.llm_provider, told.model) == (error.status_code, "p", "m")
        assert "orchid" not in f"{told}{told!r}{told.args}{vars(told)}"


def test_litellms_logging_has_the_handlers_that_governed_logging_stands_in_for() -> None:
    for name in ("success_handler", "async_success_handler", "failure_handler", "async_failure_handler"):
        assert callable(getattr(Logging, name))
        assert name in vars(GovernedLogging)
    assert callable(GLOBAL_LOGGING_WORKER.ensure_initialized_and_enqueue)
    assert GLOBAL_LOGGING_WORKER.timeout > 0


def test_neither_a_header_nor_a_key_empties_a_record_but_the_operators_own_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(proxy_server.general_settings, "store_prompts_in_spend_logs", True)
    assert stores_bodies("follow_litellm")
    monkeypatch.setattr(litellm, "turn_off_message_logging", True)
    assert not stores_bodies("follow_litellm")
    assert stores_bodies("always")


def test_a_key_or_team_that_stores_no_prompts_is_asked_about_where_litellm_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stores(metadata: dict[str, Any] | None = None) -> bool:  # as from LiteLLM 1.110 on
        tenants = (metadata or {}).values()
        return not any((one or {}).get("store_prompts_in_spend_logs") is False for one in tenants)

    monkeypatch.setattr(spend_logs, "should_store_prompts_and_responses_in_spend_logs", stores)
    out = {"store_prompts_in_spend_logs": False}
    assert stores_bodies("follow_litellm", UserAPIKeyAuth(metadata={}))
    assert not stores_bodies("follow_litellm", UserAPIKeyAuth(metadata=out))
    assert not stores_bodies("follow_litellm", UserAPIKeyAuth(team_metadata=out))
    assert stores_bodies("always", UserAPIKeyAuth(metadata=out))


async def test_of_the_last_turn_a_record_keeps_the_users_last_message() -> None:
    ctx, recorder = await ended()
    said = [
        {"role": "system", "content": "tulip"},
        {"role": "user", "content": "tulip"},
        {"role": "assistant", "content": "tulip"},
        {"role": "user", "content": "rose"},
        {"role": "assistant", "content": "tulip"},
    ]
    asked = {"model": "m", "messages": said, "system": "tulip", "tools": ["tulip"]}
    await recorder.record_request(asked, asked)
    made = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True, of_last_turn=True)
    assert made["original"]["request"] == {"model": "m", "messages": [{"role": "user", "content": "rose"}]}


BASE = """litellm_settings: {callbacks: [luthien_litellm_hooks.luthien]}
callback_settings: {luthien: {policy: {class: noop}}}
"""


@pytest.mark.parametrize(
    ("general", "key"),
    [
        ("{disable_spend_logs: true}", "disable_spend_logs"),
        ("{spend_logs_metadata_fields: {include: [status]}}", "spend_logs_metadata_fields.include"),
        ("{spend_logs_metadata_fields: {exclude: [spend_logs_metadata]}}", "spend_logs_metadata_fields.exclude"),
        ("{spend_logs_metadata_fields: {include: [spend_logs_metadata]}}", None),
        ("{spend_logs_metadata_fields: {exclude: [status]}, disable_spend_logs: false}", None),
    ],
)
def test_settings_that_drop_the_records_are_warned_of(tmp_path: Path, general: str, key: str | None) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"{BASE}general_settings: {general}\n")
    found = [(one.key, one.level) for one in check(read_source(config), {})]
    assert found == ([] if key is None else [(f"general_settings.{key}", "warning")])


@pytest.mark.parametrize("store", ["sqlite", "off"])
def test_records_that_are_not_in_the_spend_logs_cannot_be_dropped_there(tmp_path: Path, store: str) -> None:
    config = tmp_path / "config.yaml"
    luthien = f"{{policy: {{class: noop}}, record: {{store: {store}}}}}"
    text = BASE.replace("{policy: {class: noop}}", luthien) + "general_settings: {disable_spend_logs: true}\n"
    config.write_text(text)
    assert check(read_source(config), {}) == []
