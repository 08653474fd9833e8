"""Try-outs of policies from a page: their results, and the settings that a page may not set."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from luthien_litellm_hooks.config.policy_loading import config_model
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor import tryout
from luthien_litellm_hooks.monitor.transactions import Transaction, read_transaction
from luthien_litellm_hooks.monitor.tryout import NAMES, Tried, Tryout, read_settings, try_out
from tests.support.record_file import row

SAID = {"type": "text", "text": "I clean up."}
CALL = {"type": "tool_call", "id": "c1", "name": "Bash", "arguments": json.dumps({"command": "ls"})}
JUDGE = "{model: m, model_group: true}"


def build(name: str, settings: Mapping[str, Any]) -> PolicyExecutor:
    return build_executor(load_settings({"luthien": {"policy": {"class": name, "config": dict(settings)}}}, {}))


def stored(*content: dict[str, Any], **record: Any) -> Transaction:
    side = {"request": {"messages": [{"role": "user", "content": "Tidy."}]}, "answer": {"content": list(content)}}
    kept = {"original": side, "final": {**side, "request": None}, "outcome": "complete", "transaction_id": "t0"}
    return read_transaction(row(0, **{**kept, **record}))


async def tried(name: str, settings: str, *transactions: Transaction) -> Tryout:
    return await try_out(build, name, read_settings(settings), transactions or [stored(SAID, CALL)])


async def test_each_block_has_the_recorded_verdict_beside_that_of_the_policy() -> None:
    done = await tried("tool_rules", "rules: [{action: block, tool: Bash, reason: not here}]")
    [one] = done.tried
    request, text, call = one.verdicts
    assert (request.kind, request.change) == ("request", "unchanged")
    assert (text.kind, text.text, text.change) == ("text", "I clean up.", "unchanged")
    assert (call.name, call.change, call.before.verdict, call.after.verdict) == (
        "Bash",
        "newly_blocked",
        "allow",
        "block",
    )
    assert call.after.reason == "not here: tool Bash"
    assert one.outcome == "blocked"


async def test_the_lines_for_the_configuration_give_the_same_policy() -> None:
    settings = "replacements: [[clean, tidy]]\nmatch_capitalization: true\n"
    done = await tried("string_replacement", settings)
    assert done.tried[0].verdicts[1].after.instead == "I tidy up."
    assert done.yaml.startswith("policy:\n  class: string_replacement\n  config:\n    replacements:\n")
    spec = read_settings(done.yaml)["policy"]
    again = await try_out(build, spec["class"], spec["config"], [])
    assert again.version == done.version
    assert (await tried("noop", "")).yaml == "policy:\n  class: noop\n"


async def test_what_cannot_be_judged_says_why() -> None:
    unstored = read_transaction(row(0, transaction_id="u"))
    assert unstored.record is not None
    unstored = unstored.model_copy(update={"record": unstored.record.model_copy(update={"original": None})})
    closed = stored(sealed="x")
    assert closed.record is not None
    closed = closed.model_copy(update={"record": closed.record.model_copy(update={"original": None})})
    large = stored({"type": "text", "text": "x" * 300_000})
    strange = stored({"type": "picture"})
    done = await tried("noop", "", unstored, closed, large, strange, stored(SAID))
    problems = [one.problem for one in done.tried]
    assert problems[0] is not None
    assert "are not stored" in problems[0]
    assert problems[1] == "The record stays closed."
    assert problems[2] is not None
    assert "too large" in problems[2]
    assert problems[3] == "It cannot be judged again: the response has a block of the unknown type 'picture'."
    assert problems[4] is None


async def test_all_transactions_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tryout, "DEADLINE_S", 0.0)
    done = await tried("noop", "", stored(SAID), stored(SAID))
    assert [one.problem for one in done.tried] == ["The 0 s of a try-out were over."] * 2


async def test_a_policy_that_cannot_be_built_is_told_with_its_key() -> None:
    with pytest.raises(ConfigError, match="replacements"):
        await tried("string_replacement", "{}")


@pytest.mark.parametrize("name", ["debug_logging", "serial", "os:path", "tests.support.building:EndsTheProcess", ""])
async def test_only_shipped_policies_are_loaded_by_their_short_names(name: str) -> None:
    def unreachable(name: str, settings: Mapping[str, Any]) -> PolicyExecutor:
        raise AssertionError(name)

    with pytest.raises(ConfigError, match="The policy is one of noop, "):
        await try_out(unreachable, name, {}, [])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("{model: openai/gpt-4o}", "one of the proxy's own models here"),
        ("{model: m, model_group: false}", "one of the proxy's own models here"),
        ("{model: m, model_group: 'true'}", "one of the proxy's own models here"),
        ("{model: m, model_group: true, api_base: 'http://169.254.169.254'}", "`api_base` cannot be set"),
        ("{model: m, model_group: true, api_key: k}", "`api_key` cannot be set"),
        ("{model: 'huggingface/https://evil.example', model_group: true}", "a name in the proxy's `model_list`"),
        ("{model: m, model_group: true, models: ['x/https://evil.example']}", "a name in the proxy's `model_list`"),
        (f"{{model: m, model_group: true, first: {{question: {JUDGE[:-1]}, api_base: 'http://x'}}}}}}", "`api_base`"),
        ("{model: m, model_group: true, first: {question: {model: m}}}", "one of the proxy's own models here"),
        ("{<<: {api_base: 'http://x'}, model: m, model_group: true}", "`api_base` cannot be set"),
        ("{rules: [{reason: os.environ/LITELLM_MASTER_KEY}]}", "a variable of the proxy's"),
        ("{os.environ/PATH: 1}", "a variable of the proxy's"),
        ("{instructions: !!binary b3MuZW52aXJvbi9Y}", "a bytes, which no policy takes"),
        ("{a: 2026-05-31}", "a date, which no policy takes"),
        ("{a: !!set {b}}", "a set, which no policy takes"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!python/name:os.environ", "could not determine a constructor"),
        ("a: &x [1]\nb: *x", "anchors and aliases are not read here"),
        ("a: *x", "anchors and aliases are not read here"),
        ("&x a: 1", "anchors and aliases are not read here"),
        ("[" * 10_000, "nested too deeply"),
        ("{a: " * 4_000, "nested too deeply"),
        ("- " * 9_000, "nested too deeply"),
        ("a: " + "9" * 19_000, "not YAML that can be used"),
        ("a: 2026-99-99", "not YAML that can be used"),
        ("a: [1", "not YAML that can be used"),
        ("a: \x00", "not YAML that can be used"),
        ("[]: 1", "not YAML that can be used"),
        ("text", "should be names with values"),
        ("1: 2", "should be names with values"),
        ("a: " + "x" * 3_000, "a text of more than 2,000 characters"),
        ("x" * 20_001, "longer than 20,000 characters"),
    ],
)
def test_settings_that_a_page_may_not_set_are_refused_quickly(settings: str, complaint: str) -> None:
    begun = time.process_time()
    with pytest.raises(ConfigError, match=complaint.replace("`", ".")):
        read_settings(settings)
    assert time.process_time() - begun < 5


def test_settings_of_a_judge_in_the_proxy_are_read() -> None:
    settings = f"{JUDGE[:-1]}, first: {{question: {JUDGE}}}}}"
    assert read_settings(settings)["first"]["question"]["model"] == "m"
    assert read_settings("") == read_settings("# nothing") == {}


def test_no_setting_of_a_shipped_policy_names_a_file_or_an_address_but_those_refused() -> None:
    """A policy with a new setting of that kind needs a rule of its own above."""
    kinds = {
        "file",
        "files",
        "path",
        "paths",
        "url",
        "base",
        "key",
        "host",
        "hosts",
        "address",
        "command",
        "module",
        "class",
        "env",
    }
    fields = {(name, field) for name in NAMES for field in config_model(name).model_fields}
    found = {one for one in fields if kinds.intersection(one[1].split("_"))}
    judges = {"tool_call_judge", "llm_rules", "llm_rewrite"}
    assert found == {
        *((judge, field) for judge in judges for field in ("api_base", "api_key")),
        ("protect_proxy", "config_files"),  # globs for the paths in calls
        ("block_web_requests", "allow_hosts"),  # compared with the hosts in calls
    }


async def test_calls_of_models_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tryout, "_MOST_CALLS", 0)
    done = await tried("tool_call_judge", JUDGE)
    [one] = done.tried
    assert isinstance(one, Tried)
    assert one.outcome == "policy_error"
    assert one.verdicts[2].after.verdict == "error"
