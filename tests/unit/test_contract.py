"""Names that others rely on: configs, deployments, policies, dashboards and readers of records name them.

A name may be added here. One that is removed or changed breaks somebody who upgrades.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import pytest

import luthien_litellm_hooks
from luthien_litellm_hooks import (
    Decision,
    Identity,
    Policy,
    PolicyContext,
    Request,
    Said,
    Spent,
    Step,
    StreamingResponseContext,
    ToolCall,
    Verdict,
    testing,
)
from luthien_litellm_hooks.config.policy_loading import ENTRY_POINTS
from luthien_litellm_hooks.config.policy_spec import config_schema
from luthien_litellm_hooks.config.settings import Settings, build_executor, load_settings
from luthien_litellm_hooks.recording.decision import Approval
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.telemetry import names
from tests.unit.recording.test_transaction_record import POLICIES, ended

PUBLIC = """
ALLOW Answer Chunk ChunkPolicy ConfigError ContentStreamBlock Decision DefaultTransactionRecorder Identity JudgeError
LLMClient LiteLLMClient LuthienError NoOpObservabilityContext NoOpTransactionRecorder ObservabilityContext Policy
PolicyBlockedError PolicyConfig PolicyContext PolicyError PolicyExecutor PolicyTimeoutError QueueFullError
ReasoningStreamBlock Request Said SimplePolicy Spent Step StreamBlock StreamClosedError StreamingResponseContext
ToolCall ToolCallStreamBlock ToolGatePolicy TransactionRecorder Verdict WireError drop_block get_last_ingress_chunk
is_notice notice passthrough_accumulated_chunks passthrough_last_chunk send_chunk send_notice send_reasoning send_text
send_tool_call
"""
TESTING = """
Call ChunkedTextIterator Cut Gate Outcome Say ScriptedAnswer ScriptedProvider StreamingBuffer Think Wait run_policy
serve
"""
HOOKS = """
on_request on_chunk_received on_content_delta on_content_complete on_reasoning_delta on_reasoning_complete
on_tool_call_delta on_tool_call_complete on_finish_reason on_stream_complete on_stream_closed process_full_response
"""
MEMBERS: Mapping[type, str] = {
    Policy: "count_untouched",
    PolicyContext: "transaction_id request final_request answer policy_name identity observability recorder scratchpad"
    " decisions spent decide charge policy_version",
    StreamingResponseContext: "block delta choice ingress_state has_text_after_calls is_cut_off is_streamed keepalive"
    " time_since_keepalive decide",
    Request: "body route headers session models model messages tools tool_names turn trajectory surroundings"
    " is_streaming replace without",
    Said: "author text is_reasoning is_notice",
    Step: "call result is_error is_withheld",
    Decision: "policy action block reason message score evidence milliseconds error is_vote spent approval",
    Identity: "key_hash key_alias user_id user_email team_id team_alias org_id end_user_id",
    Verdict: "action instead message reason score evidence milliseconds spent approval texts calls",
    ToolCall: "id name arguments form extra",
}
PLACES = (
    "luthien_litellm_hooks:LuthienGuardrail",
    "luthien_litellm_hooks:DefaultObservabilityContext",
    "luthien_litellm_hooks.cli:app",
    "luthien_litellm_hooks.hooks.config_file:require_policy",
    "luthien_litellm_hooks.policies.noop:NoOp",
    "luthien_litellm_hooks.policies.all_caps:AllCaps",
    "luthien_litellm_hooks.policies.debug_logging:DebugLogging",
    "luthien_litellm_hooks.policies.tool_rules:ToolRules",
    "luthien_litellm_hooks.policies.block_dangerous_commands:BlockDangerousCommands",
    "luthien_litellm_hooks.policies.block_sensitive_file_writes:BlockSensitiveFileWrites",
    "luthien_litellm_hooks.policies.block_web_requests:BlockWebRequests",
    "luthien_litellm_hooks.policies.sql_protection:SqlProtection",
    "luthien_litellm_hooks.policies.protect_proxy:ProtectProxy",
    "luthien_litellm_hooks.policies.protect_work:ProtectWork",
    "luthien_litellm_hooks.policies.secrets:Secrets",
    "luthien_litellm_hooks.policies.string_replacement:StringReplacement",
    "luthien_litellm_hooks.policies.regex_replacement:RegexReplacement",
    "luthien_litellm_hooks.policies.plain_dashes:PlainDashes",
    "luthien_litellm_hooks.policies.no_apologies:NoApologies",
    "luthien_litellm_hooks.policies.prefer_uv:PreferUv",
    "luthien_litellm_hooks.policies.tool_call_judge:ToolCallJudge",
    "luthien_litellm_hooks.policies.llm_rules:LlmRules",
    "luthien_litellm_hooks.policies.llm_rewrite:LlmRewrite",
)
SHORT_NAMES = """
serial parallel noop all_caps debug_logging tool_rules block_dangerous_commands block_sensitive_file_writes
block_web_requests sql_protection protect_proxy protect_work secrets string_replacement regex_replacement plain_dashes
no_apologies prefer_uv tool_call_judge llm_rules llm_rewrite
"""
SETTINGS = """
policy policy.class policy.config policy.timeout_s policy.on_policy_error policy.when policy.when.models
policy.when.keys policy.when.teams policy.when.users policy.when.routes policy.when.tools policy.when.headers
policy.when.share policy.enforce policy.enforce.models policy.enforce.share enforce enforce.teams enforce.share on_block
block_status unjudged ungoverned_routes unselected queue queue.max_items queue.put_timeout_s limits
limits.max_stream_bytes limits.max_held_bytes limits.max_hold_s limits.max_request_values limits.max_judged_characters
limits.max_judged_blocks ping_s record record.bodies record.original record.readable_by record.store
record.max_days record.max_bytes events events.jsonl events.redis approvals approvals.hold_s approvals.hold_full_s
approvals.valid_s approvals.in_client approvals.approvers approvals.approvers.users approvals.approvers.teams
approvals.notify state ui ui.enabled ui.url
"""
JUDGES: Mapping[str, str] = {
    "tool_call_judge": "models samples aggregate threshold ask_at instructions message first first.suspects"
    " first.passes first.question first.question.model first.question.instructions",
    "llm_rules": "models samples aggregate rules",
    "llm_rewrite": "instructions applies_to",
}
EVERY_JUDGE = "model api_base api_key model_group temperature reasoning_effort max_tokens timeout_s max_calls charge"
SPANS = "luthien.transaction luthien.hook gen_ai.evaluation.result luthien.decision"
ATTRIBUTES = """
luthien.transaction.id luthien.route luthien.outcome luthien.policy luthien.hook luthien.action luthien.reason
luthien.block.kind error.type gen_ai.operation.name gen_ai.request.model gen_ai.request.stream gen_ai.response.id
gen_ai.response.model gen_ai.response.finish_reasons gen_ai.usage.input_tokens gen_ai.usage.output_tokens
gen_ai.evaluation.name gen_ai.evaluation.score.value gen_ai.evaluation.score.label gen_ai.evaluation.explanation
gen_ai.tool.name gen_ai.tool.call.id
"""
RECORD = """
format transaction_id path session headers identity
version policies policies.name policies.version outcome decisions decisions.policy decisions.action
decisions.block decisions.block.type decisions.block.id decisions.block.name decisions.reason decisions.score
decisions.milliseconds decisions.message decisions.evidence decisions.calls decisions.tokens decisions.cost spent
decisions.approval decisions.approval.id decisions.approval.digest decisions.approval.state decisions.approval.by
decisions.approval.waited_ms decisions.approval.edited decisions.approval.message decisions.approval.arguments
spent.calls spent.tokens spent.cost changed changed.request changed.answer chunks
chunks.ingress chunks.egress milliseconds original original.request original.answer original.answer.content
original.answer.finish_reason final final.request final.answer final.answer.content final.answer.finish_reason
"""
METRICS = {
    "luthien_transactions_total": ("route", "outcome"),
    "luthien_decisions_total": ("policy", "action", "mode"),
    "luthien_policy_seconds": ("policy", "hook"),
    "luthien_added_latency_seconds": (),
    "response.chunks.ingress": (),
    "response.chunks.egress": (),
    "luthien_events_dropped_total": ("sink",),
    "luthien_settings_readings_total": ("result",),
    "luthien_observed_dropped_total": ("reason",),
    "luthien_approvals_total": ("state",),
    "luthien_approval_seconds": ("state",),
    "luthien_asked_again_total": ("result",),
    "luthien_observer_failures_total": (),
}


@pytest.mark.parametrize("name", [*PUBLIC.split(), "luthien", "LuthienGuardrail", "__version__"])
def test_the_package_has_a_public_name(name: str) -> None:
    assert name in {*luthien_litellm_hooks.__all__, "luthien", "LuthienGuardrail", "__version__"}


def test_testing_has_its_public_names() -> None:
    assert set(TESTING.split()) <= set(testing.__all__)
    assert all(hasattr(testing, name) for name in TESTING.split())


def test_a_policy_has_its_hooks() -> None:
    assert all(inspect.iscoroutinefunction(getattr(Policy, hook)) for hook in HOOKS.split())
    assert {name for name in vars(Policy) if name.startswith("on_")} <= set(HOOKS.split())


@pytest.mark.parametrize(
    "made", [PolicyContext("t", Request({})), Decision("p", "allow"), Identity(), ToolCall("", "", "")]
)
def test_an_object_that_a_policy_gets_has_its_members(made: object) -> None:
    assert all(hasattr(made, name) for name in MEMBERS[type(made)].split())


@pytest.mark.parametrize("cls", [Policy, StreamingResponseContext, Request, Verdict])
def test_a_class_that_a_policy_meets_has_its_members(cls: type) -> None:
    source = "".join(inspect.getsource(each) for each in cls.__mro__[:-1] if each.__module__ == cls.__module__)
    assert all(hasattr(cls, name) or f"self.{name}" in source for name in MEMBERS[cls].split())


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_configs_name_is_there(place: str) -> None:
    module, _, name = place.partition(":")
    assert getattr(import_module(module), name) is not None


@pytest.mark.parametrize("name", SHORT_NAMES.split())
def test_a_short_name_is_known(name: str) -> None:
    assert config_schema(name)["type"] == "object"


def test_packages_offer_policies_in_the_same_group() -> None:
    assert ENTRY_POINTS == "luthien_litellm_hooks.policies"


def test_the_command_is_installed() -> None:
    [script] = entry_points(group="console_scripts", name="luthien-hooks")
    assert script.value == "luthien_litellm_hooks.cli:app"


@pytest.mark.parametrize("key", SETTINGS.split())
def test_a_setting_is_known(key: str) -> None:
    assert key in set(_keys(Settings.model_json_schema(by_alias=True)))


@pytest.mark.parametrize("name", JUDGES)
def test_a_setting_of_a_judge_is_known(name: str) -> None:
    assert {*EVERY_JUDGE.split(), *JUDGES[name].split()} <= set(_keys(config_schema(name)))


def _keys(schema: Mapping[str, Any]) -> Iterator[str]:
    """The settings of `schema`, those of sections after a dot."""

    def walk(node: Any, path: str) -> Iterator[str]:
        for name, field in node.get("properties", {}).items():
            yield path + name
            for part in (field, *field.get("anyOf", ()), *field.get("allOf", ()), *field.get("oneOf", ())):
                if "$ref" in part:
                    yield from walk(schema["$defs"][part["$ref"].rpartition("/")[2]], f"{path}{name}.")

    return walk(schema, "")


async def test_a_record_has_its_keys() -> None:
    ctx, recorder = await ended()
    ctx.spending.add(Spent(1, 2, 0.1))
    approval = Approval("digest", "approved", "id", by="alice", message="Fine.", arguments="{}")
    ctx.decisions[0] = replace(ctx.decisions[0], spent=ctx.spent, approval=approval)
    record = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True)
    assert set(RECORD.split()) <= set(_paths(json.loads(json.dumps(record))))


def _paths(value: object, path: str = "") -> Iterator[str]:
    for key, item in value.items() if isinstance(value, dict) else ():
        yield path + key
        yield from _paths(item[0] if isinstance(item, list) and item else item, f"{path}{key}.")


def test_spans_and_metrics_have_their_names() -> None:
    told = {value for value in vars(names).values() if isinstance(value, str)}
    assert {*SPANS.split(), *ATTRIBUTES.split()} <= told
    assert {metric.name: metric.labels for metric in names.METRICS} == METRICS


def test_a_policys_version_does_not_depend_on_where_its_module_stands() -> None:
    """Rows of before and after an upgrade compare: `noop` without settings has had this version since 0.1."""
    executor = build_executor(load_settings({"luthien": {"policy": {"class": "noop"}}}, {}))
    assert executor.composition.version == "55128d58bdfe"
