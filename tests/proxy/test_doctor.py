"""`luthien-hooks doctor` tells a governed proxy from one that is not, by what real proxies answer."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from luthien_litellm_hooks import hooks
from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.cli.demo.proxy import HOST
from luthien_litellm_hooks.cli.doctor.verdicts import Verdict, judge_event, judge_reply, shorten
from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import KEY, Proxies, Proxy, free_port, named_models
from tests.support.selected import LAB

NOOP: dict[str, Any] = {"policy": {"class": "noop"}}
NONCE = "0123456789abcdef"
GOVERNABLE = {
    ("/v1/chat/completions", "full"),
    ("/v1/chat/completions", "stream"),
    ("/v1/completions", "full"),
    ("/v1/completions", "stream"),
    ("/v1/messages", "full"),
    ("/v1/messages", "stream"),
    ("/v1/responses", "full"),
    ("/v1/responses", "stream"),
    ("/v1beta/models/{model}:generateContent", "full"),
    ("/v1beta/models/{model}:streamGenerateContent", "stream"),
}


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers["probed"] = Answer([Say("The quick brown fox: über alles")])


def run(*arguments: str, key: str = KEY, **environment: str | None) -> Result:
    keyed = ("--key", key) if key else ()
    return CliRunner().invoke(app, ["doctor", *arguments, *keyed], env={"LITELLM_MASTER_KEY": None, **environment})


def examine(proxy: Proxy, *models: str) -> tuple[int, dict[tuple[str, str], str]]:
    """The exit code, and the verdict of each route and mode."""
    result = run("--url", proxy.url, "--json", *(word for model in models for word in ("--model", model)))
    rows = json.loads(result.stdout)["results"]
    return result.exit_code, {(row["route"], row["mode"]): row["verdict"] for row in rows}


@pytest.mark.parametrize("model", ["openai/probed", "anthropic/probed"])
def test_a_proxy_with_the_plugin_is_governed_or_closed_everywhere(
    proxies: Proxies, provider: ScriptedProvider, model: str
) -> None:
    before = len(provider.requests)
    code, verdicts = examine(proxies.get(NOOP), model)
    assert {probed for probed, verdict in verdicts.items() if verdict == "governed"} == GOVERNABLE
    others = {probed: verdicts[probed] for probed in verdicts.keys() - GOVERNABLE}
    assert others == dict.fromkeys(others, "refused")
    assert ("/v1/realtime", "websocket") in verdicts
    assert len(provider.requests) == before + len(GOVERNABLE), "each proof took the place of a model's answer"
    assert code == 0


def test_a_proxy_without_the_plugin_is_not_governed(proxies: Proxies) -> None:
    code, verdicts = examine(proxies.get(None), "openai/probed")
    assert {verdicts[probed] for probed in GOVERNABLE} == {"NOT GOVERNED"}
    assert "governed" not in verdicts.values()
    assert "refused" not in verdicts.values()
    assert code == 1


def test_a_route_that_the_operator_opened_is_not_governed(proxies: Proxies) -> None:
    code, verdicts = examine(proxies.get({**NOOP, "ungoverned_routes": "allow"}), "openai/probed")
    assert {verdicts[probed] for probed in GOVERNABLE} == {"governed"}
    assert verdicts["/queue/chat/completions", "full"] == "NOT GOVERNED"
    assert verdicts["/queue/chat/completions", "stream"] == "NOT GOVERNED"
    assert verdicts["/anthropic/v1/messages", "stream"] == "NOT GOVERNED"
    assert code == 1


def test_the_table_says_what_the_json_says(proxies: Proxies) -> None:
    result = run("--url", proxies.get(NOOP).url, "--model", "openai/probed")
    _, verdicts = examine(proxies.get(NOOP), "openai/probed")
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(" /")]
    assert {(row[0], row[1]): row[3] for row in rows} == verdicts
    assert "0 NOT GOVERNED" in result.stdout
    assert result.exit_code == 0


def test_every_model_that_is_named_is_asked(proxies: Proxies) -> None:
    models = ("--model", "openai/probed", "--model", "anthropic/probed", "--json")
    rows = json.loads(run("--url", proxies.get(NOOP).url, *models).stdout)["results"]
    asked = [(row["route"], row["mode"], row["model"]) for row in rows]
    for route, mode in GOVERNABLE:
        assert (route, mode, "openai/probed") in asked
        assert (route, mode, "anthropic/probed") in asked
    assert len(set(asked)) == len(asked)


def test_without_a_model_it_asks_those_that_the_config_names(proxies: Proxies, provider_url: str) -> None:
    proxy = proxies.get(NOOP, sections={"model_list": named_models(provider_url)})
    result = run("--url", proxy.url, "--json", key="", LITELLM_MASTER_KEY=KEY)
    rows = json.loads(result.stdout)["results"]
    models = {row["model"] for row in rows if (row["route"], row["mode"]) in GOVERNABLE}
    assert models == {"one", "two"}
    assert result.exit_code == 0


def test_where_all_models_are_wildcards_one_must_be_named(proxies: Proxies) -> None:
    result = run("--url", proxies.get(NOOP).url)
    assert result.exit_code == 2
    assert "name one with --model" in result.stderr


def test_a_provider_that_fails_proves_nothing(proxies: Proxies, provider: ScriptedProvider) -> None:
    provider.answers["probed-broken"] = Answer([Say("no such model")], status=404)
    code, verdicts = examine(proxies.get(NOOP), "openai/probed-broken")
    assert {verdicts[probed] for probed in GOVERNABLE} == {"not available"}
    assert code == 0


def test_the_key_is_not_printed_though_a_provider_says_it(proxies: Proxies, provider: ScriptedProvider) -> None:
    provider.answers["probed-telling"] = Answer([Say(f"your key is {KEY}")], status=400)
    output = run("--url", proxies.get(NOOP).url, "--model", "openai/probed-telling").output
    assert "your key is ***" in output
    assert KEY not in output


WRONG_KEYS = ("sk-wrong-key-0123456789", "sk-ü", "sk-two\nlines", " ")


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_key_that_is_refused(proxies: Proxies, key: str) -> None:
    result = run("--url", proxies.get(NOOP).url, "--model", "openai/probed", key=key)
    assert result.exit_code == 2
    assert "key" in result.stderr
    assert not key.strip() or key not in result.output


def test_without_a_key_it_says_so() -> None:
    result = run(key="")
    assert result.exit_code == 2
    assert "--key" in result.stderr


@pytest.mark.parametrize(
    "url", [f"http://{HOST}:{{port}}", f"{HOST}:{{port}}", f"ftp://{HOST}", "http://[", "nonsense"]
)
def test_nobody_there(url: str) -> None:
    result = run("--url", url.format(port=free_port()), "--model", "openai/probed")
    assert result.exit_code == 2
    assert result.stderr.startswith(url.format(port="")[:4])
    assert KEY not in result.output


def test_what_is_no_litellm_proxy_is_said(provider_url: str) -> None:
    result = run("--url", f"{provider_url}/nowhere")
    assert result.exit_code == 2
    assert result.stdout == ""


def ask(proxy: Proxy, headers: dict[str, str], **more: Any) -> str:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "openai/probed", "messages": messages, **more}
    response = proxy.http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


IGNORED = ({}, *({hooks.HEADER: value} for value in ("", "short", "a" * 65, "has a space", "quoted'\"<>{}")))


@pytest.mark.parametrize("headers", IGNORED)
def test_who_sends_no_proper_nonce_gets_the_models_answer(proxies: Proxies, headers: dict[str, str]) -> None:
    assert ask(proxies.get(NOOP), headers) == "The quick brown fox: über alles"


def test_a_probe_gets_the_proof_and_the_provider_is_asked(proxies: Proxies, provider: ScriptedProvider) -> None:
    before = len(provider.requests)
    assert ask(proxies.get(NOOP), {hooks.HEADER: NONCE}) == hooks.governed(NONCE)
    assert len(provider.requests) == before + 1


@pytest.mark.parametrize("on_block", ["notice", "error"])
def test_a_policy_that_refuses_the_probes_is_not_proved(
    proxies: Proxies, provider: ScriptedProvider, on_block: str
) -> None:
    before = len(provider.requests)
    refusing = {"policy": {"class": "tests.support.refusing:RefusesAll"}, "on_block": on_block}
    code, verdicts = examine(proxies.get(refusing), "openai/probed")
    assert verdicts == dict.fromkeys(verdicts, "refused")
    assert code == 0
    assert len(provider.requests) == before


@pytest.mark.parametrize("user", ["refuse request", "answer", "fail on request"])
def test_where_the_policy_answers_the_probe_its_answers_are_not_proved(proxies: Proxies, user: str) -> None:
    assert ask(proxies.lab(LAB), {hooks.HEADER: NONCE}, user=user) == hooks.refused(NONCE)


def chat(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def stream(*texts: str) -> str:
    return "".join(f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n" for text in texts)


PROOF = hooks.governed(NONCE)
POLICY_ERROR = json.dumps({"error": {"message": "no", "type": "policy_error", "code": "403"}})


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, chat(PROOF), "governed"),
        (200, stream(PROOF[:9], PROOF[9:]) + "data: [DONE]\n\n", "governed"),
        (200, chat(hooks.refused(NONCE)), "refused"),
        (200, chat(hooks.governed("another-nonce")), "NOT GOVERNED"),
        (200, chat(f"blue {PROOF}"), "NOT GOVERNED"),
        (200, stream("blue", PROOF), "NOT GOVERNED"),
        (200, stream("blue") + f"data: {POLICY_ERROR}\n\n", "NOT GOVERNED"),
        (200, chat(""), "NOT GOVERNED"),
        (200, "", "NOT GOVERNED"),
        (200, f"<html>{PROOF}</html>", "NOT GOVERNED"),
        (200, f"data: {POLICY_ERROR}\n\n", "refused"),
        (200, 'data: {"error": {"message": "overloaded"}}\n\n', "not available"),
        (403, POLICY_ERROR, "refused"),
        (451, POLICY_ERROR, "refused"),
        (403, '{"error": {"message": "this key may not use this model"}}', "not available"),
        (404, '{"detail": "Not Found"}', "not available"),
        (500, chat(PROOF), "not available"),
        (502, "<html>", "not available"),
        (302, "", "not available"),
    ],
)
def test_no_doubt_counts_as_governed(status: int, body: str, verdict: Verdict) -> None:
    assert judge_reply(status, body, NONCE).verdict == verdict


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        ('{"type": "session.created"}', "NOT GOVERNED"),
        (b"\xff\x00", "NOT GOVERNED"),
        ('{"type": "error", "error": {"message": "no such model"}}', "not available"),
        ('{"type": "error", "error": {"message": "cannot see it, so it is closed."}}', "refused"),
    ],
)
def test_a_websocket_that_opens_is_not_governed(event: str | bytes, verdict: Verdict) -> None:
    assert judge_event(event).verdict == verdict


def test_a_reason_is_one_short_line_without_control_characters() -> None:
    assert shorten("HTTP 404: no\n\x1b[31m such  model") == "HTTP 404: no [31m such model"
    assert len(shorten("long " * 100)) == 100
