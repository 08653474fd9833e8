"""The guardrail form as LiteLLM's own code loads and asks it, in this process."""

import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import litellm
import pytest
import yaml
from litellm.caching.dual_cache import DualCache
from litellm.proxy import proxy_server
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.proxy.guardrails.guardrail_registry import guardrail_initializer_registry
from litellm.proxy.guardrails.init_guardrails import init_guardrails_v2
from litellm.types.guardrails import GuardrailEventHooks
from litellm.types.proxy.policy_engine import GuardrailPipeline, PipelineStep
from litellm.types.utils import CallTypes

import luthien_litellm_hooks
from luthien_litellm_hooks import ConfigError
from luthien_litellm_hooks.config.check import check
from luthien_litellm_hooks.config.check.source import read_source
from luthien_litellm_hooks.config.settings import PROCESS_WIDE
from luthien_litellm_hooks.hooks import startup as start
from luthien_litellm_hooks.hooks.callback import LuthienCallback, RecordWriter
from luthien_litellm_hooks.hooks.guardrail import LuthienGuardrail, initialize_guardrail
from luthien_litellm_hooks.hooks.transaction import UngovernedError, current_transaction, set_current
from tests.support.chat import full
from tests.support.proxy import ROOT

FULL_NAME = "luthien_litellm_hooks.LuthienGuardrail"
CAPS: dict[str, Any] = {"class": "all_caps"}
NOOP: dict[str, Any] = {"class": "noop"}
POST, PRE = GuardrailEventHooks.post_call, GuardrailEventHooks.pre_call


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A proxy that has loaded nothing of us."""
    monkeypatch.setattr(start, "_process", None)
    monkeypatch.setattr(litellm, "callbacks", [])
    yield
    guardrail_initializer_registry.pop("luthien", None)
    vars(luthien_litellm_hooks).pop("luthien", None)


def load(*guardrails: Mapping[str, Any]) -> list[LuthienGuardrail]:
    """What LiteLLM makes of a config's `guardrails`."""
    known = list(litellm.callbacks)
    init_guardrails_v2([dict(one) for one in guardrails], config_file_path="config.yaml")
    return [one for one in litellm.callbacks if one not in known and isinstance(one, LuthienGuardrail)]


def entry(name: str = "caps", policy: Mapping[str, Any] = CAPS, **params: Any) -> dict[str, Any]:
    given = {"guardrail": FULL_NAME, "mode": ["pre_call", "post_call"], "default_on": True, "policy": policy}
    return {"guardrail_name": name, "litellm_params": {**given, **params}}


def callback(monkeypatch: pytest.MonkeyPatch, policy: Mapping[str, Any], **settings: Any) -> LuthienCallback:
    monkeypatch.setattr(litellm, "callback_settings", {"luthien": {"policy": policy, **settings}})
    monkeypatch.setattr("luthien_litellm_hooks.hooks.admin.PolicyReload.start", lambda self: None)
    built = start.build(initialize_guardrail)
    litellm.callbacks.append(built)
    return built


def request_data(**body: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **body}
    return {**body, "proxy_server_request": {"url": "http://127.0.0.1/v1/chat/completions", "body": dict(body)}}


async def ask(*hooks: Any, **body: Any) -> dict[str, Any]:
    data = request_data(**body)
    for hook in hooks:
        data = await hook.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), data, "acompletion")
    return data


async def answer(data: dict[str, Any], *hooks: Any, text: str = "text") -> str:
    response = full({"content": text})
    for hook in hooks:
        response = await hook.async_post_call_success_hook(data, UserAPIKeyAuth(), response)
    return response.choices[0].message.content


async def stream(text: str = "text") -> Any:
    yield text


WRONG: Mapping[str, tuple[dict[str, Any], str]] = {
    "no policy": ({"policy": None}, r"guardrails\.caps\.litellm_params\.policy: missing"),
    "no such policy": ({"policy": {"class": "all_cap"}}, r"litellm_params\.policy\.class: unknown policy"),
    "a policy's typo": ({"policy": {"class": "all_caps", "confg": {}}}, "confg: unknown key; did you mean 'config'"),
    "a typo": ({"on_blok": "error"}, r"litellm_params\.on_blok: unknown key; did you mean 'on_block'"),
    "a typo of LiteLLM's key": ({"defualt_on": True}, "defualt_on: unknown key; did you mean 'default_on'"),
    "a wrong value": ({"on_block": "explode"}, r"litellm_params\.on_block: "),
    "the request alone": ({"mode": "pre_call"}, r"litellm_params\.mode: should be \[pre_call, post_call\]"),
    "the answer alone": ({"mode": ["post_call"]}, r"litellm_params\.mode: should be \[pre_call, post_call\]"),
    "beside the call": ({"mode": ["pre_call", "during_call", "post_call"]}, r"litellm_params\.mode: "),
    "for logs": ({"mode": "logging_only"}, r"litellm_params\.mode: "),
    "in parallel": ({"run_in_parallel": True}, r"litellm_params\.run_in_parallel: a policy cannot run this way"),
    "on a copy": ({"scan_raw_request": True}, r"litellm_params\.scan_raw_request: a policy cannot run this way"),
    "a wrong route": ({"ungoverned_routes": ["pass_trough_endpoint"]}, r"litellm_params\.ungoverned_routes\.0: "),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_entry_stops_the_start(how: str) -> None:
    params, message = WRONG[how]
    with pytest.raises(ConfigError, match=message):
        load(entry(**params))


def test_the_class_that_a_config_names_is_the_class() -> None:
    assert luthien_litellm_hooks.LuthienGuardrail is LuthienGuardrail


def test_litellms_own_keys_stay_litellms() -> None:
    [guardrail] = load(entry(timeout=3, guard_name="x", extra_headers=["x-one"]))
    assert (guardrail.guardrail_name, guardrail.default_on) == ("caps", True)


def test_two_of_one_name_stop_the_start() -> None:
    with pytest.raises(ConfigError, match="another guardrail has this name"):
        load(entry(), entry(policy=NOOP))


def test_the_short_name_is_there_with_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    callback(monkeypatch, NOOP)
    [guardrail] = load(entry(guardrail="luthien"))
    assert [name for name, _ in guardrail.in_force.policies] == ["all_caps"]


@pytest.mark.parametrize("key", PROCESS_WIDE)
def test_what_is_one_for_the_proxy_cannot_differ(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    differing: Mapping[str, Any] = {
        "ungoverned_routes": "allow",
        "queue": {"max_items": 7},
        "limits": {"max_hold_s": 7},
        "record": {"bodies": "never"},
        "events": {"jsonl": "events.jsonl"},
        "approvals": {"hold_s": 7},
        "state": "sqlite",
        "ui": {"enabled": True},
    }
    callback(monkeypatch, NOOP)
    message = rf"litellm_params\.{key}: applies to the whole proxy, and callback_settings\.luthien has another value"
    with pytest.raises(ConfigError, match=message):
        load(entry(**{key: differing[key]}))


def test_what_is_one_for_the_proxy_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    callback(monkeypatch, NOOP, limits={"max_hold_s": 7}, record={"bodies": "never"})
    silent, same = load(entry(), entry("same", limits={"max_hold_s": 7}))
    assert {one.in_force.executor.limits.max_hold_s for one in (silent, same)} == {7}
    assert silent.in_force.record.bodies == "never"


async def test_a_request_that_litellm_did_not_select_passes_and_its_answer_too() -> None:
    [guardrail] = load(entry(default_on=False))
    data = request_data()
    assert not guardrail.should_run_guardrail(data, PRE)
    assert not guardrail.should_run_guardrail(data, POST)


async def test_what_was_selected_for_the_request_is_selected_for_the_answer() -> None:
    [guardrail] = load(entry(default_on=False))
    data = await ask(guardrail)
    assert guardrail.should_run_guardrail({"metadata": {"guardrails": []}}, POST), (
        "whatever anyone has made of it since"
    )
    assert await answer(data, guardrail) == "TEXT"


async def test_an_answer_that_is_selected_without_its_request_is_withheld() -> None:
    [guardrail] = load(entry())
    assert guardrail.should_run_guardrail(request_data(), POST)
    with pytest.raises(UngovernedError):
        await answer(request_data(), guardrail)
    with pytest.raises(UngovernedError):
        await anext(guardrail.async_post_call_streaming_iterator_hook(UserAPIKeyAuth(), stream(), request_data()))


async def test_an_answer_whose_request_only_another_was_asked_about_is_withheld() -> None:
    first, second = load(entry("first"), entry("second", NOOP))
    data = await ask(first)
    with pytest.raises(UngovernedError):
        await answer(data, second)


async def test_a_provider_is_not_called_for_a_request_that_the_guardrail_was_not_asked_about() -> None:
    """It falls back to a model that has the guardrail, say."""
    [guardrail] = load(entry(default_on=False))
    fallen_back = request_data(guardrails=["caps"])
    with pytest.raises(ProxyException, match="its policy could not check it"):
        await guardrail.async_pre_call_deployment_hook(fallen_back, CallTypes.acompletion)
    assert await guardrail.async_pre_call_deployment_hook(request_data(), CallTypes.acompletion) is None
    await ask(guardrail)
    assert await guardrail.async_pre_call_deployment_hook(fallen_back, CallTypes.acompletion) is None


async def test_a_pass_through_route_is_refused_where_a_guardrail_is_always_on() -> None:
    """LiteLLM asks about the request, without saying whose it is, and never about the answer."""
    [guardrail] = load(entry())
    data = {"model": "m", "messages": []}
    assert guardrail.should_run_guardrail(data, PRE)
    with pytest.raises(ProxyException, match="cannot see the answers"):
        await guardrail.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), data, "pass_through_endpoint")


async def test_a_request_is_refused_whose_answer_a_pipeline_of_litellm_would_keep_from_the_guardrail() -> None:
    [guardrail] = load(entry())
    pipeline = GuardrailPipeline(mode="post_call", steps=[PipelineStep(guardrail="caps")])
    data = {**request_data(), "metadata": {"_guardrail_pipelines": [("policy", pipeline)]}}
    with pytest.raises(ProxyException, match="cannot be a step of a pipeline"):
        await guardrail.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), data, "acompletion")


async def test_litellm_does_not_have_an_answer_judged_before_it_is_a_clients() -> None:
    [guardrail] = load(entry())
    data = await ask(guardrail)
    asked = {**data, "guardrails": ["caps"]}
    assert await guardrail.async_post_call_success_deployment_hook(asked, full({"content": "text"}), None) is None


async def test_policies_of_several_run_one_behind_the_other_whoever_is_called_first() -> None:
    replaced = {"class": "string_replacement", "config": {"replacements": [["text", "word"]]}}
    for order in (1, -1):
        set_current(None)
        litellm.callbacks.clear()
        hooks = load(entry(f"replaces {order}", replaced), entry(f"caps {order}"))
        data = await ask(*hooks)
        assert await answer(data, *hooks[::order]) == "WORD"


async def test_the_callbacks_policy_comes_first_and_no_policy_judges_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    doubling = {"class": "string_replacement", "config": {"replacements": [["text", "text text"]]}}
    ours = callback(monkeypatch, doubling)
    same, caps = load(entry("same", doubling), entry())
    data = await ask(ours, same, caps)
    assert await answer(data, same, caps, ours) == "TEXT TEXT"
    transaction = current_transaction()
    assert transaction is not None
    assert [name for name, _ in transaction.in_force.policies] == ["string_replacement", "all_caps"]


async def test_a_policy_gets_the_request_as_the_one_before_it_left_it() -> None:
    lab = {"class": "tests.support.lab:Lab"}
    first, second = load(entry("first", lab), entry("second", {"class": "serial", "config": {"policies": [lab, NOOP]}}))
    data = await ask(first, second, user="count")
    assert data["messages"][-1]["content"] == "hello once", "the second adds a policy, not the same one again"
    transaction = current_transaction()
    assert transaction is not None
    assert transaction.context is not None
    assert transaction.context.final_request.messages[-1]["content"] == "hello once"


async def test_each_guardrail_refuses_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = callback(monkeypatch, NOOP)
    [strict] = load(entry("strict", {"class": "tests.support.lab:Lab"}, on_block="error", block_status=451))
    with pytest.raises(ProxyException) as refused:
        await ask(ours, strict, user="refuse request")
    assert (refused.value.code, refused.value.message) == ("451", "This request is refused.")


async def test_a_next_request_on_the_same_connection_is_another_transaction() -> None:
    [guardrail] = load(entry())
    await answer(await ask(guardrail), guardrail)
    before = current_transaction()
    assert not guardrail.should_run_guardrail(request_data(metadata={}), GuardrailEventHooks.during_call)
    guardrail.should_run_guardrail(request_data(), PRE)
    assert current_transaction() is None
    await ask(guardrail)
    assert current_transaction() is not before


@pytest.mark.parametrize("with_callback", [True, False], ids=["with callback", "guardrails alone"])
def test_somebody_writes_the_records_once(monkeypatch: pytest.MonkeyPatch, with_callback: bool) -> None:
    if with_callback:
        callback(monkeypatch, NOOP)
    load(entry(), entry("other", NOOP))
    writers = [one for one in litellm.callbacks if isinstance(one, LuthienCallback | RecordWriter)]
    assert len(writers) == 1


@pytest.mark.parametrize(("kind", "shown"), [("request", "hello"), ("response", "HELLO")])
async def test_the_playground_shows_what_becomes_of_a_text(kind: str, shown: str) -> None:
    [guardrail] = load(entry())
    judged = await guardrail.apply_guardrail(inputs={"texts": ["hello"]}, request_data={}, input_type=kind)
    assert judged["texts"] == [shown]


HEAD = """\
guardrails:
  - guardrail_name: one
    litellm_params:
      guardrail: luthien_litellm_hooks.LuthienGuardrail
      mode: [pre_call, post_call]
"""
AGAIN = HEAD.removeprefix("guardrails:\n")
CALLBACK = """\
litellm_settings: {callbacks: [luthien_litellm_hooks.luthien]}
callback_settings: {luthien: {policy: {class: noop}}}
"""
# A line that is wrong ends in `#!` and the key, below `guardrails.`
CHECKED = {
    "none": HEAD + "      policy: {class: noop}\n",
    "with the callback": CALLBACK + HEAD + "      policy: {class: noop}\n",
    "no policy": HEAD.replace("    litellm_params:", "    litellm_params: #! 0.litellm_params.policy"),
    "no such policy": HEAD + "      policy: {class: nop} #! 0.litellm_params.policy.class\n",
    "the answer alone": HEAD.replace("[pre_call, post_call]", "post_call #! 0.litellm_params.mode")
    + "      policy: {class: noop}\n",
    "a typo": HEAD + "      policy: {class: noop}\n      on_blok: error #! 0.litellm_params.on_blok\n",
    "an unset variable": HEAD
    + "      policy: {class: all_caps, config: {x: os.environ/NOT_SET_HERE}} #! 0.litellm_params.policy.config.x\n",
    "the short name alone": HEAD.replace(
        "luthien_litellm_hooks.LuthienGuardrail", "luthien #! 0.litellm_params.guardrail"
    )
    + "      policy: {class: noop}\n",
    "two of one name": HEAD
    + "      policy: {class: noop}\n"
    + AGAIN.replace("name: one", "name: one #! 1.guardrail_name")
    + "      policy: {class: all_caps}\n",
    "limits of its own": CALLBACK
    + HEAD
    + "      policy: {class: noop}\n      limits: {max_hold_s: 7} #! 0.litellm_params.limits\n",
}


@pytest.mark.parametrize("name", CHECKED)
def test_the_check_finds_what_is_wrong_with_a_guardrail(tmp_path: Path, name: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CHECKED[name])
    marked = [
        (number, f"guardrails.{line.partition('#!')[2].strip()}")
        for number, line in enumerate(CHECKED[name].splitlines(), 1)
        if "#!" in line
    ]
    found = [(finding.place.line, finding.key) for finding in check(read_source(config), {})]
    assert found == marked


def test_a_start_says_where_in_the_config_a_guardrail_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CHECKED["no such policy"])
    monkeypatch.setattr(proxy_server, "user_config_file_path", str(config))
    with pytest.raises(ConfigError, match=rf"{config}:6: error: guardrails\.0\.litellm_params\.policy\.class: "):
        load(*yaml.safe_load(config.read_text())["guardrails"])


def test_the_config_of_the_docs_is_right(tmp_path: Path) -> None:
    [block] = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/guardrail.md").read_text(), re.DOTALL | re.MULTILINE)
    config = tmp_path / "config.yaml"
    config.write_text(block)
    assert check(read_source(config), {}) == []
    assert [one.guardrail_name for one in load(*yaml.safe_load(block)["guardrails"])] == ["agents", "support"]
