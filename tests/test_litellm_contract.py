"""What the plugin needs of LiteLLM, checked against the installed version; each was once a silent failure."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import litellm
import pytest
import yaml
from fastapi import HTTPException
from fastapi.routing import APIRoute
from litellm import Router
from litellm._logging import JsonFormatter, redact_secrets
from litellm.caching.dual_cache import DualCache
from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.exception_mapping_utils import ExceptionCheckers
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.llms.anthropic.chat.transformation import AnthropicConfig
from litellm.proxy import litellm_pre_call_utils, proxy_server
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.proxy.google_endpoints import endpoints as google_endpoints
from litellm.proxy.response_api_endpoints import endpoints as response_endpoints
from litellm.proxy.types_utils.utils import get_instance_fn
from litellm.proxy.utils import ProxyLogging
from litellm.types.litellm_params import ResponseOptions
from litellm.types.utils import CallTypes

import luthien_litellm_hooks
from luthien_litellm_hooks import ConfigError, Policy, Request, SimplePolicy, ToolCall
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.answer_fields import remove_answer_fields
from luthien_litellm_hooks.hooks.boot_check import master_key_refusal
from luthien_litellm_hooks.hooks.callback import LuthienCallback, UngovernedError
from luthien_litellm_hooks.hooks.in_force import InForce, LivePolicy
from luthien_litellm_hooks.hooks.mcp import OTHER_CONTENTS, mcp_manager
from luthien_litellm_hooks.hooks.provider_errors import Told, ToldError
from luthien_litellm_hooks.hooks.route_paths import PATHS
from luthien_litellm_hooks.hooks.self_check import callbacks_after, check_dispatch
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.noop import NoOp
from tests.support.chat import full
from tests.support.proxy import KEY, ROOT, proxy_config, starting_proxy

CONFIG = ROOT / "litellm_config.yaml"


def test_calls_that_anthropic_runs_keep_the_ids_that_tell_them_from_the_clients() -> None:
    block = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    call = AnthropicConfig.convert_tool_use_to_openai_format(anthropic_tool_content=block, index=0)
    assert call["id"] == "srvtoolu_1"


def live(policy: Policy) -> LivePolicy:
    return LivePolicy(InForce(PolicyExecutor(policy)))


def callback_of(policy: Policy) -> LuthienCallback:
    return LuthienCallback(live(policy))


@pytest.fixture
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    monkeypatch.setattr(litellm, "callback_settings", config["callback_settings"])
    monkeypatch.delitem(vars(luthien_litellm_hooks), "luthien", raising=False)
    yield
    vars(luthien_litellm_hooks).pop("luthien", None)


@pytest.mark.usefixtures("_own_settings")
def test_litellms_own_loader_gets_our_one_object_from_our_own_config() -> None:
    [entry] = yaml.safe_load(CONFIG.read_text())["litellm_settings"]["callbacks"]
    loaded = get_instance_fn(entry, config_file_path=str(CONFIG))
    assert isinstance(loaded, CustomLogger)
    assert type(loaded) is LuthienCallback, "a second copy of the module would have a class of its own"
    assert get_instance_fn(entry, config_file_path=str(CONFIG)) is loaded is luthien_litellm_hooks.luthien


def test_litellm_sees_each_of_our_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = callback_of(NoOp())
    monkeypatch.setattr(litellm, "callbacks", [callback])
    seen = ProxyLogging.callback_capabilities()
    assert callback in seen.resolved_callbacks
    assert seen.has_pre_call_override
    assert (callback, "override") in seen.iterator_overrides
    assert not seen.has_guardrail, "LiteLLM's slow path for each chunk"
    assert not seen.has_streaming_chunk_override, "LiteLLM's slow path for each chunk"
    check_dispatch(callback)
    assert litellm.callbacks == [callback], "the check leaves what is registered as it was"


def test_callbacks_that_come_after_ours_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Changes(CustomLogger):
        async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> Any:
            return response

    class Watches(CustomLogger):
        async def async_log_success_event(self, *arguments: Any) -> None:
            """Changes nothing."""

    callback = callback_of(NoOp())
    monkeypatch.setattr(litellm, "callbacks", [Changes(), callback, Watches()])
    assert callbacks_after(callback) == []
    monkeypatch.setattr(litellm, "callbacks", [callback, Watches(), Changes()])
    assert callbacks_after(callback) == ["Changes"]


def test_a_hook_that_litellm_would_skip_stops_the_start() -> None:
    class Inherits(LuthienCallback):
        """LiteLLM does not see inherited hooks."""

    with pytest.raises(ConfigError, match=r"would not call async_pre_call_hook, .*async_post_call_success_hook"):
        check_dispatch(Inherits(live(NoOp())))


async def test_an_answer_without_a_checked_request_is_withheld() -> None:
    """LiteLLM's hidden route /queue/chat/completions brings a stream without any request hook."""
    callback = callback_of(NoOp())

    async def provider() -> Any:
        yield "secret"

    with pytest.raises(UngovernedError, match="could not be checked"):
        await anext(callback.async_post_call_streaming_iterator_hook(None, provider(), {}))
    with pytest.raises(UngovernedError, match="could not be checked"):
        await callback.async_post_call_success_hook({}, None, "secret")


async def test_a_step_within_a_governed_request_does_not_open_its_answer() -> None:
    """LiteLLM lists MCP tools, say, in the midst of a request, and calls the same request hook for it."""
    callback = callback_of(AllCaps())
    data = {"model": "m", "proxy_server_request": {"body": {"model": "m"}}}
    await callback.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), data, "acompletion")
    await callback.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), {}, "list_mcp_tools")
    response = await callback.async_post_call_success_hook(data, UserAPIKeyAuth(), full({"content": "text"}))
    assert response.choices[0].message.content == "TEXT"


async def test_a_providers_call_passes_without_a_client_and_stops_with_one_whose_request_nobody_checked() -> None:
    """A health check, or a call of a policy's own, has no client's request behind it."""
    callback = callback_of(NoOp())
    assert await callback.async_pre_call_deployment_hook({"model": "m"}, CallTypes.acompletion) is None
    of_a_client = {"model": "m", "proxy_server_request": {"url": "http://127.0.0.1/hidden"}}
    with pytest.raises(ProxyException, match="a route on which LiteLLM asks no policy"):
        await callback.async_pre_call_deployment_hook(of_a_client, CallTypes.acompletion)


async def test_an_mcp_call_that_cannot_be_checked_is_withheld_without_an_exceptions_text() -> None:
    class Breaks(SimplePolicy):
        async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall:
            return replace(tool_call, arguments="no JSON")

    callback = callback_of(Breaks())
    data = {"mcp_tool_name": "echo", "mcp_arguments": {"text": "hello"}}
    with pytest.raises(GuardrailRaisedException, match=r"^The tool call was withheld: it could not be checked\.$"):
        await callback.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), data, "call_mcp_tool")


def test_importing_the_package_to_write_a_policy_loads_neither_litellm_nor_settings() -> None:
    code = "import sys, luthien_litellm_hooks as l; l.Policy; sys.exit('litellm' in sys.modules)"
    environment = {"LUTHIEN_POLICY_CONFIG": "/does/not/exist", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


BAD = {
    "no settings": (None, "no policy is set"),
    "wrong class": ({"policy": {"class": "all_cap"}}, "callback_settings.luthien.policy.class: no policy is called"),
    "wrong key": (
        {"policy": {"class": "all_caps", "config": {"tool_argument": True}}},
        "callback_settings.luthien.policy.config.tool_argument: unknown key; did you mean 'tool_arguments'?",
    ),
    "wrong value": (
        {"policy": {"class": "all_caps", "timeout_s": "soon"}},
        "callback_settings.luthien.policy.timeout_s: Input should be a valid number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_proxy_with_a_wrong_config_does_not_start_and_says_why(name: str, tmp_path: Path) -> None:
    settings, message = BAD[name]
    config = proxy_config("http://127.0.0.1:9", settings or {})
    if settings is None:
        del config["callback_settings"]
    assert _start_and_fail(config, tmp_path / "bad", {}).count(message)


def test_a_proxy_takes_its_policy_from_the_file_that_the_environment_names(tmp_path: Path) -> None:
    policy_file = tmp_path / "policy.yaml"
    policy_file.write_text("policy: {class: all_caps, config: {tool_argument: true}}")
    config = proxy_config("http://127.0.0.1:9", {})
    del config["callback_settings"]
    output = _start_and_fail(config, tmp_path / "bad", {"LUTHIEN_POLICY_CONFIG": str(policy_file)})
    assert "policy.config.tool_argument: unknown key" in output


def _start_and_fail(config: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> str:
    with starting_proxy(config, folder, environment) as (process, proxy):
        assert process.wait(90) != 0
        return proxy.output


def test_each_option_by_which_litellm_reads_an_answer_otherwise_is_taken_out_of_a_request() -> None:
    others = {"keepalive_seconds", "allow_client_keepalive_override", "thought_signature_in_tool_call_id"}
    options = {field.name: True for field in fields(ResponseOptions) if field.name not in others}
    assert options
    data: dict[str, Any] = {"model": "m", **options}
    remove_answer_fields(data)
    assert data == {"model": "m"}


def test_litellm_takes_our_error_from_the_failure_hook_and_sends_it_as_it_is() -> None:
    told = ToldError(Told.of(litellm.RateLimitError("said", "openai", "m"), "id"))
    assert isinstance(told, HTTPException)
    handler = proxy_server.app.exception_handlers[ProxyException]
    found = [proxy_server.app.exception_handlers.get(kind) for kind in type(told).__mro__]
    assert next(one for one in found if one is not None) is handler
    assert (told.code, told.status_code, told.detail) == ("429", 429, told.message)
    assert ExceptionCheckers.is_error_str_context_window_exceeded("This model's maximum context length is 9 tokens")


def test_the_paths_of_each_governed_route_are_litellms() -> None:
    """A path that is not in our table would let a client leave a policy that is for a route."""
    endpoints: dict[str, set[str]] = {}
    routers = (proxy_server.router, response_endpoints.router, google_endpoints.router)
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute) and "POST" in route.methods:
            endpoints.setdefault(route.endpoint.__name__, set()).add(re.sub(r"\{model[^}]*\}", "{model}", route.path))
    functions = {
        "chat": ("chat_completion",),
        "completions": ("completion",),
        "responses": ("responses_api", "cursor_chat_completions"),
        "gemini": ("google_generate_content", "google_stream_generate_content"),
    }
    for name, its_functions in functions.items():
        assert set(PATHS[name]) == set().union(*(endpoints[function] for function in its_functions))


def test_litellm_has_what_models_are_named_by() -> None:
    deployment = {"model_name": "openai/*", "litellm_params": {"model": "openai/*", "api_key": "k"}}
    named = {**deployment, "model_name": "smart", "litellm_params": {"model": "openai/gpt-4o", "api_key": "k"}}
    router: Any = Router([deployment, {**named, "model_info": {"id": "its-id"}}], model_group_alias={"nick": "smart"})
    assert router.get_model_from_alias(model="nick") == "smart"
    assert (router.has_model_id("its-id"), router.get_routing_group("smart")) == (True, None)
    assert (
        router.pattern_router.get_deployments_by_pattern(model="gpt-4o")[0]["litellm_params"]["model"]
        == "openai/gpt-4o"
    )
    assert router.get_model_list(model_name="smart", team_id=None)[0]["model_name"] == "smart"
    assert (router.team_pattern_routers, router.default_deployment) == ({}, None)
    assert all(hasattr(router, name) for name in ("auto_routers", "complexity_routers", "adaptive_routers"))
    assert "mock_response" in litellm_pre_call_utils._UNTRUSTED_ROOT_CONTROL_FIELDS  # pyright: ignore[reportPrivateUsage]


async def test_litellm_logs_what_its_log_is_told() -> None:
    call: Any = Logging("m", "asked", False, "aresponses", datetime.now(), "id", "f")
    assert call.messages == [{"role": "user", "content": "asked"}]
    call.update_messages([{"role": "user", "content": "left"}])
    assert (call.messages, call.model_call_details["messages"]) == ([{"role": "user", "content": "left"}],) * 2


def test_results_of_mcp_servers_go_through_what_is_replaced() -> None:
    assert iscoroutinefunction(ProxyLogging.post_mcp_call_hook)
    manager = type(mcp_manager())
    assert all(iscoroutinefunction(getattr(manager, name)) for name in OTHER_CONTENTS)


def test_litellms_json_logs_take_a_traceback_that_is_ready() -> None:
    record = logging.LogRecord(
        "luthien_litellm_hooks", logging.ERROR, "", 0, "said", (), (ValueError, ValueError(), None)
    )
    record.exc_text = "ready"
    said = json.loads(JsonFormatter().format(record))
    assert (said["message"], said["component"], said["stacktrace"]) == ("said", "luthien_litellm_hooks", "ready")
    assert redact_secrets("a plain line") == "a plain line"


@pytest.mark.parametrize(("key", "reason"), [(None, "no master key"), ("sk-1234", "publicly known"), (KEY, None)])
def test_litellm_says_which_master_keys_it_starts_with(
    key: str | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LITELLM_MASTER_KEY", raising=False)
    said = master_key_refusal({} if key is None else {"master_key": key}, {})
    assert (said is None) if reason is None else (said is not None and reason in said)
