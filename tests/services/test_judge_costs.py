"""The judges' calls on a real PostgreSQL: a row of each, charged to the key that asked, without what is withheld."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from luthien_litellm_hooks.monitor.spend_logs import Filter, ProxyApi
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.all_logged import FILE_VARIABLE
from tests.support.judge import JSON, JudgeModel, rating
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until

WITHHELD = "tulips-of-1637"
FIRST = "first of two judges"
ANSWER = Answer([Say("Early."), Call("look", "{}"), Call("wipe", json.dumps({"path": WITHHELD}))])
BODIES: dict[str, tuple[str, JSON]] = {
    "chat": ("/v1/chat/completions", {"model": "openai/gpt-4.1", "messages": [{"role": "user", "content": "x"}]}),
    "messages": (
        "/v1/messages",
        {
            "model": "anthropic/claude-sonnet-4-5",
            "max_tokens": 99,
            "messages": [{"role": "user", "content": "x"}],
            "metadata": {"user_id": "u"},
        },
    ),
    "responses": ("/v1/responses", {"model": "openai/gpt-4.1", "input": "x"}),
}
KEY_SPEND = 'SELECT spend FROM "LiteLLM_VerificationToken" WHERE token = %s'
TEAM_SPEND = 'SELECT spend FROM "LiteLLM_TeamTable" WHERE team_id = %s'
OTHERS = "team-with-a-judge-group-of-its-own"


def opinion(instructions: str, shown: JSON) -> object:
    if "gpt-4.1-nano" in instructions:
        return f"no rating of {WITHHELD}"
    is_bad = WITHHELD in json.dumps(shown)
    if FIRST in instructions:
        return "yes" if is_bad else "no"
    return rating(0.9 if is_bad else 0.1, f"it is about {WITHHELD}" if is_bad else "fine")


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeModel]:
    with JudgeModel().served() as judge:
        judge.opinion = opinion
        yield judge


def policies(judge: JudgeModel) -> JSON:
    """A policy of judges for each team."""
    own = {**judge.config, "model": "openai/gpt-4o-mini", "instructions": "Judge."}
    question = {**judge.config, "model": "openai/gpt-4o-mini", "timeout_s": 20}
    charged = {**own, "models": ["openai/gpt-4.1-mini"], "first": {"question": question}}
    configs: JSON = {
        "charged": charged,
        "free": {**own, "charge": "none"},
        "failing": {**own, "instructions": "Judge as gpt-4.1-nano."},
        "unreachable": {**own, "api_base": "http://127.0.0.1:9/v1", "timeout_s": 1},
        "own": {"model": "judge-group", "model_group": True},
    }
    members = [
        {"class": "tool_call_judge", "config": config, "when": {"teams": [team]}} for team, config in configs.items()
    ]
    return {"policy": {"class": "serial", "config": {"policies": members}}, "record": {"bodies": "always"}}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a logger of the operator's."""
    path = tmp_path_factory.mktemp("logged") / "logged.jsonl"
    path.touch()
    return path


@pytest.fixture(scope="module")
def proxy(
    judge: JudgeModel,
    provider: ScriptedProvider,
    provider_url: str,
    postgres_url: str,
    logged: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    for model in ("gpt-4.1", "claude-sonnet-4-5"):
        provider.answers[model] = ANSWER
    config = proxy_config(provider_url, policies(judge))
    group = {"model": "openai/gpt-4o-mini", "api_base": judge.base, "api_key": "k"}
    of_others = {"team_id": OTHERS, "team_public_model_name": "judge-group"}
    config["model_list"] += [
        {"model_name": "judge-group", "litellm_params": group},
        {
            "model_name": f"judge-group_{OTHERS}",
            "litellm_params": {**group, "api_base": f"{provider_url}/v1"},
            "model_info": of_others,
        },
    ]
    config["litellm_settings"]["callbacks"].insert(0, "tests.support.all_logged.logger")
    config["general_settings"] = {"store_prompts_in_spend_logs": True}
    environment = {**prisma_environment(postgres_url), FILE_VARIABLE: str(logged)}
    with running_proxy(config, tmp_path_factory.mktemp("proxy") / "p", environment) as proxy:
        yield proxy


def key_of(proxy: Proxy, team: str, **more: str) -> tuple[str, str]:
    """A new key in a new team of this alias, and the team's id."""
    made = proxy.http.post("/team/new", json={"team_alias": team, **more})
    assert made.is_success, made.text
    team_id = made.json()["team_id"]
    return proxy.virtual_key(team_id=team_id, key_alias=f"of-{team_id}"), team_id


def send(proxy: Proxy, key: str, route: str = "chat", *, stream: bool = False, **more: Any) -> str:
    path, body = BODIES[route]
    response = proxy.http.post(
        path, json={**body, "stream": stream, **more}, headers={"Authorization": f"Bearer {key}"}
    )
    assert response.is_success, response.text
    return response.text


def mark_of(row: JSON) -> JSON | None:
    return (row["metadata"].get("spend_logs_metadata") or {}).get("luthien_call")


def record_of(rows: list[JSON]) -> JSON:
    [found] = [row["metadata"]["spend_logs_metadata"]["luthien"] for row in rows if mark_of(row) is None]
    return found


def spent_of(url: str, query: LiteralString, value: str, at_least: float) -> float:
    """What LiteLLM says has been spent, as soon as it is so much."""
    with psycopg.connect(url, autocommit=True) as connection:

        def spent() -> float:
            row = connection.execute(query, [value]).fetchone()
            return 0.0 if row is None else row[0]

        wait_until(lambda: spent() >= at_least - 1e-12)
        return spent()


@pytest.mark.parametrize(
    ("route", "stream"), [("chat", False), ("chat", True), ("messages", True), ("responses", False)]
)
def test_each_call_has_a_row_of_its_own_and_the_record_adds_up_to_them(
    proxy: Proxy, postgres_url: str, route: str, stream: bool
) -> None:
    key, team_id = key_of(proxy, "charged")
    assert WITHHELD not in send(proxy, key, route, stream=stream)
    rows = spend_logs(postgres_url, key, 5)
    judged = [row for row in rows if mark_of(row)]
    assert len(rows) == 5  # the answer; the first judge of both calls; both models of the second about one
    record = record_of(rows)
    mark = {"transaction_id": record["transaction_id"], "policy": "tool_call_judge", "charge": "key"}
    assert [mark_of(row) for row in judged] == [mark] * 4
    assert {row["team_id"] for row in judged} == {team_id}
    assert {row["metadata"]["user_api_key_alias"] for row in judged} == {f"of-{team_id}"}
    assert all("luthien:judge" in row["request_tags"] for row in judged)

    total = {"calls": 4, "tokens": sum(row["total_tokens"] for row in judged)}
    cost = sum(row["spend"] for row in judged)
    assert cost > 0
    assert record["spent"] == {**total, "cost": pytest.approx(cost)}
    decisions = [made for made in record["decisions"] if "calls" in made]
    assert [(made["action"], made["calls"]) for made in decisions] in (
        [("allow", 1), ("block", 3)],
        [("block", 3), ("allow", 1)],
    )
    assert sum(made["cost"] for made in decisions) == pytest.approx(cost)
    assert sum(made["tokens"] for made in decisions) == total["tokens"]


def test_the_keys_and_the_teams_spend_are_raised_by_the_judges(proxy: Proxy, postgres_url: str) -> None:
    key, team_id = key_of(proxy, "charged")
    send(proxy, key)
    rows = spend_logs(postgres_url, key, 5)
    spend = sum(row["spend"] for row in rows)
    assert spend > sum(row["spend"] for row in rows if mark_of(row) is None)
    assert spent_of(postgres_url, KEY_SPEND, rows[0]["api_key"], spend) == pytest.approx(spend)
    assert spent_of(postgres_url, TEAM_SPEND, team_id, spend) == pytest.approx(spend)


def test_nothing_withheld_stands_in_the_rows_or_in_logs(proxy: Proxy, postgres_url: str, logged: Path) -> None:
    keys = [key_of(proxy, team)[0] for team in ("charged", "failing", "unreachable", "free")]
    for key in keys:
        send(proxy, key)
        send(proxy, key, stream=True)
    for key, count in zip(keys, (10, 6, 2, 2), strict=True):
        spend_logs(postgres_url, key, count)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        leaks = 'SELECT count(*) FROM "LiteLLM_SpendLogs" AS row WHERE row::text LIKE %s'
        assert connection.execute(leaks, [f"%{WITHHELD}%"]).fetchone() == (0,)
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    assert {"async success", "async failure"} <= {line["hook"] for line in lines}
    assert [line["hook"] for line in lines if WITHHELD in line["texts"]] == []


def test_with_charge_none_the_calls_are_counted_and_nobody_pays(proxy: Proxy, postgres_url: str) -> None:
    key, _ = key_of(proxy, "free")
    send(proxy, key)
    send(proxy, key)
    rows = spend_logs(postgres_url, key, 2)
    records = [row["metadata"]["spend_logs_metadata"]["luthien"] for row in rows]
    assert [record["spent"]["calls"] for record in records] == [2, 2]
    assert all(record["spent"]["cost"] > 0 for record in records)
    assert len(spend_logs(postgres_url, key, 2)) == 2


def test_a_judge_whose_reply_is_no_rating_is_paid_for_too(proxy: Proxy, postgres_url: str) -> None:
    key, _ = key_of(proxy, "failing")
    send(proxy, key)
    rows = spend_logs(postgres_url, key, 3)
    record = record_of(rows)
    cost = sum(row["spend"] for row in rows if mark_of(row))
    assert (record["outcome"], record["spent"]["calls"]) == ("policy_error", 2)
    assert record["spent"]["cost"] == pytest.approx(cost)
    assert sum(made.get("cost", 0) for made in record["decisions"]) == pytest.approx(cost)


def test_one_of_the_proxys_own_models_is_charged_and_not_judged_itself(proxy: Proxy, postgres_url: str) -> None:
    key, team_id = key_of(proxy, "own")
    send(proxy, key)
    rows = spend_logs(postgres_url, key, 3)
    judged = [row for row in rows if mark_of(row)]
    assert len(judged) == 2
    assert {(row["model_group"], row["team_id"]) for row in judged} == {("judge-group", team_id)}
    assert record_of(rows)["spent"]["cost"] == pytest.approx(sum(row["spend"] for row in judged))


def test_a_teams_own_model_of_the_same_name_does_not_judge(
    proxy: Proxy, provider: ScriptedProvider, judge: JudgeModel
) -> None:
    key, _ = key_of(proxy, "own", team_id=OTHERS)
    provider.answers["gpt-4o-mini"] = Answer([Say('{"probability": 0, "explanation": "mine"}')])
    assert "mine" in send(proxy, key, model="judge-group")  # so LiteLLM understands the team's requests
    before = len(judge.asked)
    assert WITHHELD not in send(proxy, key)
    assert len(judge.asked) == before + 2


def test_commands_list_and_show_transactions_alone(proxy: Proxy, postgres_url: str) -> None:
    key, _ = key_of(proxy, "charged")
    send(proxy, key)
    rows = spend_logs(postgres_url, key, 5)
    logs = ProxyApi(proxy.url, KEY)
    [listed] = logs.latest(Filter(key=rows[0]["api_key"]), 10)
    assert listed.transaction_id == record_of(rows)["transaction_id"]
    assert listed.record is not None
    assert listed.record.spent is not None  # in clear: who pays may know
    assert [found.response_id for found in logs.find(str(listed.transaction_id))] == [listed.response_id]


def test_a_client_cannot_mark_its_request_as_a_judges(proxy: Proxy, postgres_url: str) -> None:
    key, _ = key_of(proxy, "charged")
    forged = {"transaction_id": "x", "policy": "p", "charge": "none"}
    send(proxy, key, metadata={"spend_logs_metadata": {"luthien_call": forged, "mine": 1}})
    rows = spend_logs(postgres_url, key, 5)
    assert sorted(mark_of(row) is None for row in rows) == [False] * 4 + [True]
    [own] = [row for row in rows if mark_of(row) is None]
    assert own["metadata"]["spend_logs_metadata"]["mine"] == 1
