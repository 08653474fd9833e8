"""The pages of sessions, of the report and of the policy at a real proxy, with the records of its own traffic."""

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.monitor.labels import read_labels
from luthien_litellm_hooks.recording.sqlite import RecordReader
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.judge import JudgeModel, rating
from tests.support.monitored import BASE, SAME_ORIGIN, text_of, token_of
from tests.support.proxy import CONFIG, KEY, Proxy, proxy_config, running_proxy, write_config
from tests.support.waiting import wait_until

CALL = Call("Bash", json.dumps({"command": "make clean"}), id="call_a")
RULE = {"tool": "Bash", "action": "block", "reason": "no cleaning"}
POLICY = {
    "class": "serial",
    "config": {
        "policies": [
            {"class": "string_replacement", "config": {"replacements": [["clean up", "tidy"]]}},
            {"class": "tool_rules", "config": {"rules": [RULE]}, "enforce": False},
        ]
    },
}
SETTINGS: dict[str, Any] = {"policy": POLICY, "record": {"bodies": "always"}, "ui": {"enabled": True}}


@pytest.fixture(scope="module")
def judge() -> Generator[JudgeModel]:
    with JudgeModel().served() as judge:
        judge.opinion = lambda _instructions, _shown: rating(0.9, "it cleans")
        yield judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("monitor_pages")


def config_of(provider_url: str, judge: JudgeModel, settings: dict[str, Any]) -> dict[str, Any]:
    config = proxy_config(provider_url, settings)
    group = {"model": "openai/judge", "api_base": judge.base, "api_key": "k"}
    config["model_list"].insert(0, {"model_name": "own-judge", "litellm_params": group})
    return config


@pytest.fixture(scope="module")
def proxy(provider_url: str, provider: ScriptedProvider, judge: JudgeModel, folder: Path) -> Generator[Proxy]:
    """A proxy in the folder, with two transactions of one session."""
    provider.answers["cleans"] = Answer([Say("I clean up."), CALL])
    config = config_of(provider_url, judge, SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with running_proxy(config, folder / "proxy", {}) as proxy:
            for text in ("Clean the folder.", "<script>alert(1)</script>\u202e"):
                body = {"model": "openai/cleans", "stream": True, "messages": [{"role": "user", "content": text}]}
                headers = {"x-litellm-session-id": "session-7"}
                proxy.http.post("/v1/chat/completions", json=body, headers=headers).raise_for_status()
            wait_until(lambda: len(rows(proxy)) == 2)
            yield proxy


def rows(proxy: Proxy) -> list[dict[str, Any]]:
    return list(RecordReader(proxy.records).latest(None)) if proxy.records.exists() else []


def newest(proxy: Proxy) -> str:
    return rows(proxy)[0]["metadata"]["spend_logs_metadata"]["luthien"]["transaction_id"]


@pytest.fixture
def visitor(proxy: Proxy) -> Generator[httpx.Client]:
    with httpx.Client(base_url=proxy.url + BASE, timeout=60) as visitor:
        assert visitor.post("/login", data={"key": KEY}, headers=SAME_ORIGIN).status_code == 303
        yield visitor


def sent(visitor: httpx.Client, path: str, **fields: str) -> httpx.Response:
    return visitor.post(path, data={"token": token_of(visitor.get("/policy").text), **fields}, headers=SAME_ORIGIN)


def test_a_session_is_told_with_what_became_of_its_blocks(visitor: httpx.Client) -> None:
    page = visitor.get("/s/session-7")
    said = text_of(page.text)
    assert said.index("Asked Clean the folder.") < said.index("Asked <script>alert(1)</script>\\u202e")
    assert "modify string_replacement" in said
    assert "now: I tidy." in said
    assert "runs make clean" in said
    assert "Observed: tool_rules would have blocked" in said
    assert "<script>" not in page.text
    assert [shown["turn"]["origin"] for shown in visitor.get("/s/session-7?format=json").json()["turns"]] == [
        "user"
    ] * 2


def test_the_report_is_that_of_the_command_and_its_labels_go_to_the_usual_file(
    proxy: Proxy, visitor: httpx.Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visitor.get("/report")
    assert "2 responses observed" in text_of(page.text)
    printed = CliRunner().invoke(app, ["report", "--records", str(proxy.records), "--json"]).stdout
    [of_command] = json.loads(printed)["policies"]
    [of_page] = visitor.get("/report?format=json").json()["policies"]
    assert {**of_page["numbers"], "examples": of_command["examples"]} == of_command
    assert newest(proxy) in page.text
    done = sent(visitor, "/label", transaction=newest(proxy), block="1", label="block", back="/report")
    assert (done.status_code, done.headers["location"]) == (303, f"{BASE}/report")
    monkeypatch.chdir(folder)
    assert read_labels(Path("labels.jsonl")).of(CALL.name, CALL.arguments) == "block"
    again = CliRunner().invoke(app, ["label", newest(proxy), "block", "--records", str(proxy.records)])
    assert "(line 1 of labels.jsonl says so already)" in again.stdout
    assert text_of(visitor.get("/report").text).count("labelled block") == 2  # both examples have the same call


def test_what_is_in_force_is_that_of_the_route_and_a_wrong_change_is_told(
    proxy: Proxy, visitor: httpx.Client, provider_url: str, judge: JudgeModel
) -> None:
    def reload(settings: dict[str, Any]) -> int:
        write_config(proxy.log.with_name(CONFIG), config_of(provider_url, judge, settings))
        return proxy.http.post("/luthien/reload").status_code

    in_force = visitor.get("/policy?format=json").json()["in_force"]
    assert in_force == proxy.http.get("/luthien/policy").json()
    assert "string_replacement" in text_of(visitor.get("/policy").text)
    try:
        assert reload({**SETTINGS, "policy": {"class": "no_such_policy"}}) == 400
        said = text_of(visitor.get("/policy").text)
        assert "The last reading of the settings failed" in said
        assert "unknown policy 'no_such_policy'" in said
        assert reload({**SETTINGS, "ui": {"enabled": False}}) == 200
        assert "in force after a restart: ui" in text_of(visitor.get("/policy").text)
    finally:
        assert reload(SETTINGS) == 200


def test_a_policy_is_tried_on_recorded_traffic_and_its_lines_are_right(proxy: Proxy, visitor: httpx.Client) -> None:
    page = sent(visitor, "/policy", policy="tool_rules", settings=json.dumps({"rules": [RULE]}), on="", last="2")
    assert page.status_code == 200
    assert page.text.count("newly blocked") == 2
    [lines] = re.findall(r"<textarea readonly[^>]*>\n(.*?)</textarea>", page.text, re.DOTALL)
    assert "class: tool_rules" in lines
    assert proxy.http.get("/luthien/policy").json() == visitor.get("/policy?format=json").json()["in_force"]


def test_a_judge_is_asked_through_the_proxys_own_models_alone(
    proxy: Proxy, visitor: httpx.Client, judge: JudgeModel
) -> None:
    asked = len(judge.asked)
    fields = {"policy": "tool_call_judge", "on": newest(proxy), "last": "1"}
    own = sent(visitor, "/policy", **fields, settings=json.dumps(judge.config))
    assert own.status_code == 400
    assert "`api_base` cannot be set here" in text_of(own.text)
    unknown = sent(visitor, "/policy", **fields, settings="{model: other, model_group: true}")
    assert "policy_error" in text_of(unknown.text)
    assert len(judge.asked) == asked
    page = sent(visitor, "/policy", **fields, settings="{model: own-judge, model_group: true, threshold: 0.5}")
    assert "newly blocked" in page.text
    assert len(judge.asked) == asked + 1
    assert len(rows(proxy)) == 2  # the judge's call is none of the clients'
