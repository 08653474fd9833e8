"""What the plugin needs of LiteLLM, checked against the installed version; each was once a silent failure."""

import asyncio
import json
import logging
import re
import subprocess
import sys
from dataclasses import fields, replace
from datetime import datetime
from inspect import iscoroutinefunction, signature
from typing import Any

import litellm
import litellm.constants
import pytest
import yaml
from fastapi import HTTPException
from fastapi.routing import APIRoute
from litellm import Router
from litellm._logging import JsonFormatter, redact_secrets
from litellm.caching.dual_cache import DualCache
from litellm.caching.redis_cache import RedisCache
from litellm.caching.redis_cluster_cache import RedisClusterCache
from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils import redact_messages
from litellm.litellm_core_utils.exception_mapping_utils import ExceptionCheckers
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.llms.anthropic.chat.transformation import AnthropicConfig
from litellm.proxy import litellm_pre_call_utils, plugin_routes, proxy_server
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.proxy.auth.user_api_key_auth import user_api_key_auth
from litellm.proxy.google_endpoints import endpoints as google_endpoints
from litellm.proxy.response_api_endpoints import endpoints as response_endpoints
from litellm.proxy.types_utils.utils import get_instance_fn
from litellm.proxy.utils import ProxyLogging
from litellm.types.litellm_params import ResponseOptions
from litellm.types.mcp import MCPPreCallRequestObject
from litellm.types.utils import CallTypes

import luthien_litellm_hooks
from luthien_litellm_hooks import ConfigError, Policy, Request, SimplePolicy, ToolCall
from luthien_litellm_hooks.engine.composition import ConfiguredPolicy
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy, PolicyHolder
from luthien_litellm_hooks.hooks.admin.monitor import credential_of
from luthien_litellm_hooks.hooks.callback import LuthienCallback, UngovernedError, callbacks_after, check_dispatch
from luthien_litellm_hooks.hooks.config_file import master_key_refusal
from luthien_litellm_hooks.hooks.mcp import OTHER_CONTENTS, mcp_manager
from luthien_litellm_hooks.hooks.provider import SafeError, SafeProxyError
from luthien_litellm_hooks.hooks.request_data import remove_response_fields, session_of
from luthien_litellm_hooks.hooks.transaction import Transaction, current_call
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.base import When
from luthien_litellm_hooks.policy.llm_client import registry_of, settings_of
from luthien_litellm_hooks.wire import FORMATS
from tests.support.chat import full
from tests.support.proxy import KEY, ROOT

CONFIG = ROOT / "litellm_config.yaml"


def test_calls_that_anthropic_runs_keep_the_ids_that_tell_them_from_the_clients() -> None:
    block = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    call = AnthropicConfig.convert_tool_use_to_openai_format(anthropic_tool_content=block, index=0)
    assert call["id"] == "srvtoolu_1"


def test_litellm_knows_if_it_has_a_database() -> None:
    assert proxy_server.prisma_client is None  # until it has connected


def live(policy: Policy) -> PolicyHolder:
    return PolicyHolder(ActivePolicy(PolicyExecutor(policy)))


def callback_of(policy: Policy) -> LuthienCallback:
    return LuthienCallback(live(policy))


@pytest.fixture
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    monkeypatch.setattr(litellm, "callback_settings", config["callback_settings"])
    monkeypatch.delitem(vars(luthien_litellm_hooks), "luthien", raising=False)
    yield
    vars(luthien_litellm_hooks).pop("luthien", None)


def test_litellms_router_has_the_functions_of_the_next_turn() -> None:
    calls = {wire.name: wire.next_turn.call for wire in FORMATS if wire.next_turn is not None}
    assert calls.keys() == {wire.name for wire in FORMATS} - {"completions"}
    router = Router([])
    assert [call for call in calls.values() if not callable(getattr(router, call, None))] == []


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


@pytest.mark.parametrize("arguments", ["no JSON", "{}"], ids=["broken", "all removed"])
async def test_an_mcp_call_that_cannot_be_checked_is_withheld_without_an_exceptions_text(arguments: str) -> None:
    class Breaks(SimplePolicy):
        async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall:
            return replace(tool_call, arguments=arguments)

    others = ConfiguredPolicy(Breaks(), "breaks", when=When(routes=("/v1/messages",)))  # fits, as it cannot be told
    callback = LuthienCallback(PolicyHolder(ActivePolicy(PolicyExecutor(others))))
    data = {"mcp_tool_name": "echo", "mcp_arguments": {"text": "hello"}}
    with pytest.raises(GuardrailRaisedException, match=r"^The tool call was withheld: it could not be checked\.$"):
        await callback.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), data, "call_mcp_tool")


@pytest.mark.parametrize(("leaves", "outcome"), [(True, "client_disconnected"), (False, "complete")])
async def test_an_mcp_call_without_a_result_ends_with_its_task(leaves: bool, outcome: str) -> None:
    """The client leaves, or the server asks the client something: LiteLLM tells neither."""
    callback = LuthienCallback(PolicyHolder(ActivePolicy(PolicyExecutor(ConfiguredPolicy(NoOp(), "noop")))))
    data = {"mcp_tool_name": "echo", "mcp_arguments": {"text": "hello"}}
    running: asyncio.Future[Transaction | None] = asyncio.get_running_loop().create_future()

    async def make_call() -> None:
        await callback.async_pre_call_hook(UserAPIKeyAuth(), DualCache(), data, "call_mcp_tool")
        running.set_result(current_call())
        if leaves:
            await asyncio.Event().wait()

    task = asyncio.create_task(make_call())
    transaction = await running
    assert transaction is not None
    assert transaction.log_entry is not None
    if leaves:
        task.cancel()
    await transaction.log_entry.recorder.wait_for_end()
    assert transaction.log_entry.recorder.outcome == outcome


def test_importing_the_package_to_write_a_policy_loads_neither_litellm_nor_settings() -> None:
    code = "import sys, luthien_litellm_hooks as l; l.Policy; sys.exit('litellm' in sys.modules)"
    environment = {"LUTHIEN_POLICY_CONFIG": "/does/not/exist", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_each_option_by_which_litellm_reads_an_answer_otherwise_is_taken_out_of_a_request() -> None:
    others = {"keepalive_seconds", "allow_client_keepalive_override", "thought_signature_in_tool_call_id"}
    options = {field.name: True for field in fields(ResponseOptions) if field.name not in others}
    assert options
    data: dict[str, Any] = {"model": "m", **options}
    remove_response_fields(data)
    assert data == {"model": "m"}


@pytest.mark.parametrize("field", ["fallbacks", "context_window_fallbacks", "content_policy_fallbacks"])
def test_they_are_taken_out_of_each_fallback_too(field: str) -> None:
    validated = {"type": "json_object", "enforce_validation": True}
    inner = {"model": "b", "fake_stream": True, "response_format": validated}
    data: dict[str, Any] = {"model": "m", field: [{"m": [{"model": "a", "fallbacks": [inner]}]}]}
    remove_response_fields(data)
    [[held]] = data[field][0].values()
    assert held["fallbacks"] == [{"model": "b", "response_format": {"type": "json_object"}}]


def test_litellm_takes_our_error_from_the_failure_hook_and_sends_it_as_it_is() -> None:
    told = SafeProxyError(SafeError.of(litellm.RateLimitError("said", "openai", "m"), "id"))
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
        assert {*FORMATS[name].paths, *FORMATS[name].stream_paths} == set().union(
            *(endpoints[function] for function in its_functions)
        )


def test_litellm_has_what_models_are_named_by() -> None:
    deployment = {"model_name": "openai/*", "litellm_params": {"model": "openai/*", "api_key": "k"}}
    named = {**deployment, "model_name": "smart", "litellm_params": {"model": "openai/gpt-4o", "api_key": "k"}}
    router: Any = Router([deployment, {**named, "model_info": {"id": "its-id"}}], model_group_alias={"nick": "smart"})
    registry, settings = registry_of(router), settings_of(router)
    assert registry.resolve("nick", kind="alias") == "smart"
    assert registry.names(kind="group_set") == {"openai/*", "smart"}
    assert (registry.has_deployment("its-id"), registry.routing_group("smart")) == (True, None)
    assert (
        registry.patterns().get_deployments_by_pattern(model="gpt-4o")[0]["litellm_params"]["model"] == "openai/gpt-4o"
    )
    assert [one["model_name"] for one in registry.deployments("smart", team_id=None) or ()] == ["smart"]
    assert [one["model_name"] for one in registry.all()] == ["openai/*", "smart"]
    assert (registry.patterns(team=True), settings.default_deployment) == ({}, None)
    assert all(hasattr(settings, f"{kind}fallbacks") for kind in ("", "context_window_", "content_policy_"))
    assert "mock_response" in litellm_pre_call_utils._UNTRUSTED_ROOT_CONTROL_FIELDS  # pyright: ignore[reportPrivateUsage]


async def test_litellm_logs_what_its_log_is_told() -> None:
    call: Any = Logging("m", "asked", False, "aresponses", datetime.now(), "id", "f")
    assert call.messages == [{"role": "user", "content": "asked"}]
    call.update_messages([{"role": "user", "content": "left"}])
    assert (call.messages, call.model_call_details["messages"]) == ([{"role": "user", "content": "left"}],) * 2


def test_results_of_mcp_servers_go_through_what_is_replaced() -> None:
    assert iscoroutinefunction(ProxyLogging.post_mcp_call_hook)
    manager = type(mcp_manager())
    for name in OTHER_CONTENTS:
        hook = getattr(manager, name)
        assert iscoroutinefunction(hook)
        assert "user_api_key_auth" in signature(hook).parameters
    assert "user_api_key_dict" in signature(ProxyLogging.post_mcp_call_hook).parameters


def test_an_mcp_call_is_asked_about_in_the_fields_that_are_read_and_made_as_the_answer_says() -> None:
    proxy_logging: Any = ProxyLogging(DualCache())
    asked = MCPPreCallRequestObject(tool_name="echo", arguments={"text": "hello"})
    data = proxy_logging._convert_mcp_to_llm_format(asked, {})
    assert (data["mcp_tool_name"], data["mcp_arguments"]) == ("echo", {"text": "hello"})
    call = {"name": "echo", "arguments": {"text": "hello"}}
    made = proxy_logging._convert_mcp_hook_response_to_kwargs
    assert made({**data, "modified_arguments": {"text": "bye"}}, call)["arguments"] == {"text": "bye"}
    assert made({**data, "modified_arguments": {}}, call)["arguments"] == {"text": "hello"}


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


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        ({"x-claude-code-session-id": "claude-session"}, "claude-session"),
        ({"session-id": "codex-session", "user-agent": "codex_cli_rs/0.169"}, "codex-session"),
        ({"x-litellm-session-id": "own"}, "own"),
        ({"session-id": "codex-session", "user-agent": "other"}, None),
    ],
)
def test_litellm_knows_the_sessions_of_agents_by_their_headers(headers: dict[str, str], session: str | None) -> None:
    data: dict[str, Any] = {"metadata": {}, "proxy_server_request": {"body": {}, "headers": headers}}
    setup = litellm_pre_call_utils.LiteLLMProxyRequestSetup
    setup.add_litellm_metadata_from_request_headers(headers, data, "metadata")
    assert session_of(data) == session


def test_litellm_says_whom_a_call_is_charged_to() -> None:
    user = UserAPIKeyAuth(api_key="sk-0123456789abcdef", key_alias="a", team_id="t", user_id="u", org_id="o")
    fields: Any = litellm_pre_call_utils.LiteLLMProxyRequestSetup.get_sanitized_user_information_from_key(user)
    assert fields["user_api_key_hash"] == user.api_key
    assert (fields["user_api_key_team_id"], fields["user_api_key_user_id"], fields["user_api_key_org_id"]) == (*"tuo",)
    assert "user_api_key_budget_reservation" not in fields  # it settles the client's own call, once
    setup: Any = litellm_pre_call_utils.LiteLLMProxyRequestSetup
    assert setup.get_logged_api_key(user) == user.api_key


def test_litellm_knows_which_models_keep_to_a_schema() -> None:
    known: Any = litellm
    assert known.supports_response_schema("openai/gpt-4o-mini") is True
    assert known.supports_response_schema("openai/unheard-of") is False


def test_the_proxys_own_redis_has_a_client_for_the_event_loop_and_a_namespace() -> None:
    assert proxy_server.redis_usage_cache is None  # until the config is read, and without a Redis
    assert "namespace" in signature(RedisCache.__init__).parameters
    for cache in (RedisCache, RedisClusterCache):
        made: Any = cache.init_async_client
        assert [*signature(made).parameters] == ["self"]


async def test_a_call_without_message_logging_is_known_by_litellms_redaction() -> None:
    call: Any = Logging("m", "asked", False, "acompletion", datetime.now(), "id", "f")
    call.update_environment_variables(
        model="m", user=None, optional_params={}, litellm_params={}, turn_off_message_logging=True
    )
    call.model_call_details["standard_callback_dynamic_params"] = {"turn_off_message_logging": True}
    assert redact_messages.should_redact_message_logging(call.model_call_details) is True
    redact_messages.perform_redaction(call.model_call_details, None)
    assert "asked" not in str(call.model_call_details["messages"])


def test_a_session_of_the_admin_ui_is_a_claim_for_one_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor page admits its holder."""
    monkeypatch.setenv("LITELLM_SALT_KEY", "sk-a-salt")
    known: Any = plugin_routes
    claim = known.issue_plugin_session_claim("luthien", "a-user", "proxy_admin")
    assert credential_of({"claim": claim}) == {"user": "a-user", "role": "proxy_admin"}
    assert credential_of({"claim": known.issue_plugin_session_claim("another", "a-user", "proxy_admin")}) is None
    monkeypatch.delenv("LITELLM_SALT_KEY")
    unsalted = known.issue_plugin_session_claim("luthien", "a-user", "proxy_admin")
    assert known.verify_plugin_session_claim("luthien", unsalted)["user_id"] == "a-user"
    assert credential_of({"claim": unsalted}) is None  # anybody can make one
    asked = signature(user_api_key_auth).parameters
    assert list(asked)[:2] == ["request", "api_key"]
    assert len(asked) == 7
