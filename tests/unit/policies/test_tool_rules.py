"""`tool_rules`: which calls rules hold for, what becomes of those, and which settings are refused."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien_litellm_hooks import ConfigError, ToolCall
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.policies.tool_rules import ToolRules
from luthien_litellm_hooks.policy.notices import NOTICE_MARK
from luthien_litellm_hooks.policy.tool_gate import Verdict
from tests.support.chat import Delivered, call, context, deliver, finish, text

CLASS = "luthien_litellm_hooks.policies.tool_rules:ToolRules"


def policy_of(*rules: dict[str, Any], **config: Any) -> ToolRules:
    policy = load_policy(CLASS, {"rules": list(rules), **config})
    assert isinstance(policy, ToolRules)
    return policy


def tool_call(name: str, arguments: Any, form: Any = "function") -> ToolCall:
    return ToolCall("call_1", name, arguments if isinstance(arguments, str) else json.dumps(arguments), form)


async def judge(policy: ToolRules, name: str, arguments: Any, form: Any = "function") -> Verdict:
    return await policy.judge_tool_call(tool_call(name, arguments, form), context())


async def is_blocked(condition: dict[str, Any], name: str, arguments: Any, form: Any = "function") -> bool:
    verdict = await judge(policy_of({"action": "block", **condition}), name, arguments, form)
    return verdict.action == "block"


# One condition each: the condition, the tool, its arguments, whether it holds

BASH = {"command": "rm -rf build"}

CONDITIONS: list[tuple[dict[str, Any], str, Any, bool]] = [
    ({"tool": "Bash"}, "Bash", {}, True),
    ({"tool": "bash"}, "Bash", {}, True),
    ({"tool": "Bash"}, " Ba\u200bsh\n", {}, True),
    ({"tool": "Bash"}, "functions.Bash", {}, True),
    ({"tool": "Bash"}, "\x00functions.Ba\x1bsh\x7f", {}, True),
    ({"tool": "Bash"}, "dysfunctions.Bash", {}, False),
    ({"tool": "Bash"}, "BashOutput", {}, False),
    ({"tool": "Bash*"}, "BashOutput", {}, True),
    ({"tool": ["Read", "mcp__*__delete_?"]}, "mcp__fs__delete_x", {}, True),
    ({"tool": ["Read", "mcp__*__delete_?"]}, "mcp__fs__delete_xy", {}, False),
    ({"tool": "re:^mcp__"}, "MCP__fs__read", {}, True),
    ({"tool": "re:delete"}, "mcp__fs__delete_file", {}, True),
    ({"tool": "a.c"}, "abc", {}, False),
    # arguments
    ({"args": {"command": "rm *"}}, "Bash", BASH, True),
    ({"args": {"command": "rm"}}, "Bash", BASH, False),
    ({"args": {"command": "re:-rf"}}, "Bash", BASH, True),
    ({"args": {"command": "re:-rf"}}, "Bash", {"Command": "rm -rf build"}, True),
    ({"args": {"command": "re:-rf"}}, "Bash", {"other": "rm -rf build"}, False),
    ({"args": {"options.path": "/etc/*"}}, "x", {"options": {"path": "/etc/ssl/a"}}, True),
    ({"args": {"edits.1.text": "b"}}, "x", {"edits": [{"text": "a"}, {"text": "b"}]}, True),
    ({"args": {"edits.*.text": "b"}}, "x", {"edits": [{"text": "a"}, {"text": "b"}]}, True),
    ({"args": {"edits.0.text": "b"}}, "x", {"edits": [{"text": "a"}, {"text": "b"}]}, False),
    ({"args": {"*": "secret"}}, "x", {"a": 1, "b": "secret"}, True),
    ({"args": {"force": True}}, "x", {"force": True}, True),
    ({"args": {"force": "true"}}, "x", {"force": True}, True),
    ({"args": {"force": True}}, "x", {"force": False}, False),
    ({"args": {"amount": "re:^[0-9]{4,}$"}}, "x", {"amount": 1000}, True),
    ({"args": {"amount": "re:^[0-9]{4,}$"}}, "x", {"amount": 999}, False),
    ({"args": {"list": '["a", "b"]'}}, "x", {"list": ["a", "b"]}, True),
    ({"args": {"a": "1", "b": "2"}}, "x", {"a": "1", "b": "3"}, False),
    ({"args": {"text": "re:^a.b$"}}, "x", {"text": "a\nb"}, False),
    ({"args": {"text": "a*b"}}, "x", {"text": "a\n/b"}, True),
    # kinds
    ({"kind": "shell"}, "Bash", BASH, True),
    ({"kind": "shell"}, "local_shell", {"command": ["ls"]}, True),
    ({"kind": "shell"}, "container.exec", {"cmd": ["ls"]}, True),
    ({"kind": "shell"}, "run_terminal_cmd", {"command": "ls"}, True),
    ({"kind": "shell"}, "write_stdin", {"session_id": 1, "chars": "ls\n"}, True),
    ({"kind": "shell"}, "mcp__desktop__start_process", {"command": "ls"}, True),
    ({"kind": "shell"}, "my_helper", {"cmd": "ls"}, True),
    ({"kind": "shell"}, "my_helper", {"text": "ls"}, False),
    ({"kind": "shell"}, "Read", {"file_path": "a"}, False),
    ({"kind": "shell"}, "SlashCommand", {"command": "/review it's"}, False),
    ({"kind": "shell"}, "TodoWrite", {"todos": [{"content": "run ls"}]}, False),
    ({"kind": "file_write"}, "Write", {"file_path": "a", "content": "b"}, True),
    ({"kind": "file_write"}, "NotebookEdit", {"notebook_path": "a", "new_source": "b"}, True),
    ({"kind": "file_write"}, "str_replace_based_edit_tool", {"command": "create", "path": "a"}, True),
    ({"kind": "file_write"}, "str_replace_based_edit_tool", {"command": "view", "path": "a"}, False),
    ({"kind": "file_write"}, "Read", {"file_path": "a"}, False),
    ({"kind": "file_write"}, "TodoWrite", {"todos": []}, False),
    ({"kind": "file_write"}, "keep", {"path": "a", "content": "b"}, True),
    ({"kind": "file_write"}, "Bash", {"command": "echo a > b"}, True),
    ({"kind": "file_write"}, "Bash", {"command": "cat b"}, False),
    ({"kind": "web"}, "WebFetch", {"url": "https://example.com"}, True),
    ({"kind": "web"}, "web_search", {"query": "a"}, True),
    ({"kind": "web"}, "mcp__browser__navigate", {"url": "https://example.com"}, True),
    ({"kind": "web"}, "anything", {"target": {"url": "https://example.com"}}, True),
    ({"kind": "web"}, "Bash", {"command": "curl example.com"}, True),
    ({"kind": "web"}, "Bash", {"command": "echo curl"}, False),
    ({"kind": "sql"}, "mcp__postgres__query", {"sql": "SELECT 1"}, True),
    ({"kind": "sql"}, "execute_sql", {"query": "SELECT 1"}, True),
    ({"kind": "sql"}, "ask", {"query": "SELECT 1 FROM a"}, True),
    ({"kind": "sql"}, "ask", {"query": "how to drop a table"}, False),
    ({"kind": "sql"}, "Write", {"file_path": "a.sql", "content": "DROP TABLE a"}, False),
    ({"kind": "sql"}, "Bash", {"command": "psql -c 'SELECT 1'"}, True),
    ({"kind": ["web", "shell"]}, "Bash", BASH, True),
    # paths
    ({"paths": "/etc/**"}, "Write", {"file_path": "/etc/passwd", "content": ""}, True),
    ({"paths": "/etc/**"}, "Read", {"file_path": "/etc/passwd"}, True),
    ({"paths": "/etc/**"}, "Write", {"file_path": "/etcetera", "content": ""}, False),
    ({"paths": "/etc/**"}, "Write", {"file_path": "//etc/./x/../passwd", "content": ""}, True),
    ({"paths": "/etc/**"}, "Write", {"file_path": "../../../etc/passwd", "content": ""}, True),
    ({"paths": "/etc/**"}, "Write", {"file_path": "/private/ETC/passwd", "content": ""}, True),
    ({"paths": "/etc/**"}, "Write", {"file_path": "/proc/self/root/etc/passwd", "content": ""}, True),
    ({"paths": "/etc/**"}, "Write", {"file_path": "file:///etc/pass%77d", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "~/.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "$HOME/.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "${HOME}/.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "/home/me/.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "/root/.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "/Users/me/.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "C:\\Users\\me\\.ssh\\config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "~/../me/.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "../.ssh/config", "content": ""}, True),
    ({"paths": "~/.ssh/**"}, "Write", {"file_path": "~/ssh/config", "content": ""}, False),
    ({"paths": "/etc/**"}, "Bash", {"command": "echo a > /e?c/passwd"}, True),
    ({"paths": "/etc/**"}, "Bash", {"command": "echo a > /v?r/passwd"}, False),
    ({"paths": "~/.ssh/**"}, "Bash", {"command": "rm ~/.s[s]h/config"}, True),
    ({"paths": "~/.ssh/**"}, "Bash", {"command": "rm -r ~/.ssh"}, True),
    ({"paths": "/etc/**"}, "Bash", {"command": "rm *"}, False),
    ({"paths": "*.pem"}, "Write", {"file_path": "certs/a.PEM", "content": ""}, True),
    ({"paths": ".git/hooks/**"}, "Write", {"file_path": "/src/.git/hooks/pre-commit", "content": ""}, True),
    ({"paths": ["*.env", "!example.env"]}, "Write", {"file_path": "a/example.env", "content": ""}, False),
    ({"paths": ["*.env", "!example.env"]}, "move_file", {"source": "a/example.env", "destination": "x.env"}, True),
    ({"paths": "/etc/**"}, "Bash", {"command": "echo a >> /etc/passwd"}, True),
    ({"paths": "/etc/**"}, "Bash", {"command": "cd /etc && tee passwd < x"}, True),
    ({"paths": "/etc/**"}, "exec_command", {"cmd": "tee passwd", "workdir": "/etc"}, True),
    ({"paths": "/etc/**"}, "Bash", {"command": "cat /etc/passwd"}, False),  # only what a shell writes
    ({"paths": "/etc/**"}, "apply_patch", {"type": "update_file", "path": "/etc/passwd", "diff": "+x"}, True),
    ({"paths": "/etc/**"}, "apply_patch", {"input": "*** Begin Patch\n*** Add File: /etc/x\n+a\n"}, True),
    ({"paths": "/etc/**"}, "shell", {"command": ["apply_patch", "*** Begin Patch\n*** Add File: /etc/x\n"]}, True),
    ({"paths": "/etc/**"}, "apply_diff", {"diff": "--- a/x\n+++ /etc/x\n"}, True),
    ({"paths": "x.txt"}, "write_note", {"edits": [{"file": "x.txt"}]}, True),
    # commands
    ({"commands": "rm -rf"}, "Bash", BASH, True),
    ({"commands": "rm -rf"}, "Bash", {"command": "sudo rm -r -f x"}, True),
    ({"commands": "rm -rf"}, "Bash", {"command": "echo 'rm -rf x'"}, False),
    ({"commands": ["git push --force"]}, "Bash", {"command": "git push -f origin main"}, True),
    ({"commands": "rm -rf"}, "shell", {"command": ["bash", "-lc", "rm -rf x"]}, True),
    ({"commands": "rm -rf"}, "shell", {"command": ["echo", "rm -rf x"]}, False),
    ({"commands": "rm -rf"}, "shell", {"commands": ["ls -l", "rm -rf x"]}, True),
    ({"commands": "rm -rf"}, "local_shell", {"command": ["rm", "-rf", 1]}, True),
    ({"commands": "rm -rf"}, "my_helper", {"options": {"cmd": "rm -rf x"}}, True),
    ({"commands": "rm -rf"}, "my_helper", {"command": "rm", "args": ["-rf", "x"]}, True),
    ({"commands": "rm -rf"}, "my_helper", {"language": "bash", "code": "rm -rf x"}, True),
    ({"commands": "rm -rf"}, "run_python", {"code": "import os\nos.system('rm -rf x')"}, True),
    ({"commands": "rm -rf"}, "write_stdin", {"session_id": 1, "chars": "rm -rf x\n"}, True),
    ({"commands": "rm -rf"}, "Bash", {"command": "ls", "description": "rm -rf x"}, False),
    ({"commands": "rm -rf"}, "Write", {"file_path": "a.sh", "content": "rm -rf x"}, False),
    ({"dangerous": True}, "Bash", {"command": "rm -rf /"}, True),
    ({"dangerous": True}, "Bash", {"command": "rm -rf build"}, False),
    ({"dangerous": "strict"}, "Bash", {"command": "rm -rf build"}, True),
    # SQL
    ({"sql": "DROP"}, "execute_sql", {"query": "SELECT 1; DROP TABLE x"}, True),
    ({"sql": "DROP"}, "execute_sql", {"query": "SELECT 'DROP TABLE x'"}, False),
    ({"sql": "DELETE without WHERE"}, "ask", {"sql": "DELETE FROM x"}, True),
    ({"sql": "DELETE without WHERE"}, "ask", {"sql": "DELETE FROM x WHERE id = 1"}, False),
    ({"sql": "DROP"}, "db", {"queries": ["SELECT 1", "DROP TABLE x"]}, True),
    ({"sql": "DROP"}, "Bash", {"command": "psql -h db -c 'DROP TABLE x'"}, True),
    ({"sql": "DROP"}, "Bash", {"command": "psql --command='DROP TABLE x'"}, True),
    ({"sql": "DROP"}, "Bash", {"command": "mysql -e'DROP TABLE x' prod"}, True),
    ({"sql": "DROP"}, "Bash", {"command": "sqlite3 a.db 'DROP TABLE x'"}, True),
    ({"sql": "DROP"}, "Bash", {"command": "psql <<'E'\nDROP TABLE x;\nE"}, True),
    ({"sql": "DROP"}, "Bash", {"command": "echo 'DROP TABLE x' | psql"}, True),
    ({"sql": "DROP"}, "Bash", {"command": "echo 'DROP TABLE x'"}, False),
    ({"sql": "DROP"}, "WebSearch", {"query": "drop table x"}, False),
    # hosts
    ({"hosts_outside": []}, "WebFetch", {"url": "https://example.com"}, True),
    ({"hosts_outside": ["*.example.com"]}, "WebFetch", {"url": "https://a.example.com/x"}, False),
    ({"hosts_outside": ["*.example.com"]}, "WebFetch", {"url": "https://a.example.com@evil.org/x"}, True),
    ({"hosts_outside": ["localhost"]}, "WebFetch", {"url": "http://evil.org\\@localhost/"}, True),
    ({"hosts_outside": ["localhost"]}, "Bash", {"command": "curl -s -o a.json http://localhost:8000/x"}, False),
    ({"hosts_outside": ["localhost"]}, "Bash", {"command": "curl -s -o a.json localhost:8000/x"}, False),
    ({"hosts_outside": ["localhost"]}, "Bash", {"command": "curl http://localhost evil.org"}, True),
    ({"hosts_outside": ["localhost"]}, "Bash", {"command": "curl --proxy evil.org http://localhost"}, True),
    ({"hosts_outside": ["localhost"]}, "Bash", {"command": "curl http://$HOST/"}, True),
    ({"hosts_outside": ["localhost"]}, "Bash", {"command": "ssh localhost"}, True),
    ({"hosts_outside": ["localhost"]}, "Bash", {"command": "curl localhost && curl evil.org"}, True),
    ({"hosts_outside": ["localhost"]}, "web_search", {"query": "x"}, True),
    ({"hosts_outside": ["localhost"]}, "Read", {"file_path": "x"}, False),
    # combined
    ({"tool": "Bash", "args": {"command": "re:rm"}}, "Bash", BASH, True),
    ({"tool": "Bash", "args": {"command": "re:rm"}}, "sh", BASH, False),
    ({"any": [{"tool": "Read"}, {"commands": "rm"}]}, "Bash", BASH, True),
    ({"any": [{"tool": "Read"}, {"commands": "mv"}]}, "Bash", BASH, False),
    ({"all": [{"kind": "shell"}, {"commands": "rm"}]}, "Bash", BASH, True),
    ({"all": [{"kind": "shell"}, {"commands": "mv"}]}, "Bash", BASH, False),
    ({"not": {"tool": "Bash"}}, "Bash", BASH, False),
    ({"not": {"tool": "Bash"}}, "Read", {}, True),
    (
        {"kind": "shell", "not": {"any": [{"args": {"command": "ls*"}}, {"args": {"command": "cat*"}}]}},
        "sh",
        BASH,
        True,
    ),
]


@pytest.mark.parametrize(("condition", "name", "arguments", "expected"), CONDITIONS)
async def test_a_condition_holds_or_not(condition: dict[str, Any], name: str, arguments: Any, expected: bool) -> None:
    assert await is_blocked(condition, name, arguments) == expected


# Several paths, commands and so on

ALLOWED: list[tuple[dict[str, Any], str, Any, bool]] = [
    ({"commands": ["ls", "git status"]}, "Bash", {"command": "ls -l && git status"}, True),
    ({"commands": ["ls", "git status"]}, "Bash", {"command": "ls -l; rm -rf x"}, False),
    ({"commands": ["ls", "git status"]}, "Bash", {"command": "ls $(rm -rf x)"}, False),
    ({"commands": ["ls"]}, "Bash", {"command": ""}, False),
    ({"commands": ["ls"]}, "Bash", {"command": "ls 'x"}, False),
    ({"paths": "src/**"}, "move_file", {"source": "src/a", "destination": "src/b"}, True),
    ({"paths": "src/**"}, "move_file", {"source": "src/a", "destination": "/etc/b"}, False),
    ({"paths": "src/**"}, "Glob", {"pattern": "*"}, False),
    ({"args": {"edits.*.text": "a*"}}, "x", {"edits": [{"text": "ab"}, {"text": "ac"}]}, True),
    ({"args": {"edits.*.text": "a*"}}, "x", {"edits": [{"text": "ab"}, {"text": "bc"}]}, False),
    ({"args": {"edits.*.text": "a*"}}, "x", {"edits": []}, False),
    ({"sql": "SELECT"}, "execute_sql", {"query": "SELECT 1; SELECT 2"}, True),
    ({"sql": "SELECT"}, "execute_sql", {"query": "SELECT 1; DROP TABLE x"}, False),
    ({"sql": "SELECT"}, "execute_sql", {"query": "SELECT 1; VACUUM"}, False),
    ({"sql": "SELECT"}, "execute_sql", {"query": "WITH a AS (DELETE FROM x RETURNING *) SELECT * FROM a"}, False),
    ({"sql": "SELECT"}, "execute_sql", {"query": "EXEC('SELECT 1')"}, False),
    ({"sql": "SELECT"}, "execute_sql", {"query": "SELECT 1; oh no ("}, False),
    ({"not": {"commands": "rm"}}, "Bash", {"command": "ls; rm x"}, False),
    ({"not": {"commands": "rm"}}, "Bash", {"command": "ls"}, True),
]


@pytest.mark.parametrize(("condition", "name", "arguments", "expected"), ALLOWED)
async def test_what_is_allowed_is_allowed_only_alone(
    condition: dict[str, Any], name: str, arguments: Any, expected: bool
) -> None:
    policy = policy_of({"action": "allow", **condition}, default="block")
    assert ((await judge(policy, name, arguments)).action == "allow") == expected


async def test_what_is_not_exempt_is_blocked_beside_what_is() -> None:
    condition = {"kind": "file_write", "not": {"paths": "src/**"}}
    assert await is_blocked(condition, "move_file", {"source": "src/a", "destination": "/etc/b"})
    assert not await is_blocked(condition, "move_file", {"source": "src/a", "destination": "src/b"})


# What cannot be read

UNREADABLE = ['{"command": "ls"', "ls", "[" * 3_000, '{"command": "\\ud800"}']


@pytest.mark.parametrize("arguments", UNREADABLE, ids=["cut", "no JSON", "deep", "surrogate"])
@pytest.mark.parametrize(
    "condition",
    [
        {"args": {"command": "never"}},
        {"paths": "/never"},
        {"commands": "never"},
        {"dangerous": True},
        {"sql": "DROP"},
        {"hosts_outside": ["*"]},
        {"not": {"commands": "never"}},
        {"not": {"args": {"command": "*"}}},
        {"tool": "Bash", "any": [{"tool": "Read"}, {"commands": "never"}]},
    ],
)
async def test_a_call_whose_arguments_cannot_be_read_is_never_let_through_for_it(
    condition: dict[str, Any], arguments: str
) -> None:
    assert await is_blocked(condition, "Bash", arguments)
    allowing = policy_of({"action": "allow", **condition}, default="block")
    assert (await judge(allowing, "Bash", arguments)).action == "block"


@pytest.mark.parametrize(
    "condition", [{"tool": "Read", "commands": "rm"}, {"all": [{"tool": "Read"}, {"sql": "DROP"}]}]
)
async def test_a_rule_about_another_tool_does_not_mind_what_cannot_be_read(condition: dict[str, Any]) -> None:
    assert not await is_blocked(condition, "Bash", "{")


@pytest.mark.parametrize("command", ["rm -rf 'x", "$(("])
async def test_a_script_that_cannot_be_read_is_never_let_through_for_it(command: str) -> None:
    assert await is_blocked({"commands": "never"}, "Bash", {"command": command})


HOSTILE = {
    "many scripts": {"commands": ["ls $(( 1 + 1 ))"] * 50_000 + ["rm -rf x"]},
    "different scripts": {"commands": [f"ls {number}" for number in range(50_000)] + ["rm -rf x"]},
    "many paths": {"file_paths": [f"a/{number}" for number in range(50_000)] + ["/etc/passwd"], "content": ""},
    "many statements": {"sql": [f"SELECT 'DROP', {number}" for number in range(5_000)] + ["DROP TABLE x"]},
    "many objects": {"a": [{"b": [{"c": {"d": "e"}}]}] * 20_000, "command": "rm -rf x"},
    "a long command": {"command": "echo " + "x" * 900_000 + "; rm -rf x"},
    "too long": {"command": "x" * 1_100_000},
    "a deep command": {"command": "$(" * 20_000 + "rm -rf x"},
    "a path of wildcards": {"file_path": ["/" + "?*" * 2_000, "/e" + "*?" * 2 + "/x"], "content": ""},
    "a roundabout path": {"file_path": "/" + "a/../" * 800 + "etc/passwd", "content": ""},
    "a long patch": {"input": "*** Add File: " + " " * 900_000 + "\n*** Add File: /etc/passwd"},
}


@pytest.mark.parametrize("arguments", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_call_costs_little_and_hides_nothing(arguments: Any) -> None:
    condition = {"any": [{"commands": "rm -rf"}, {"paths": "/etc/**"}, {"sql": "DROP"}, {"hosts_outside": []}]}
    began = time.process_time()
    assert await is_blocked(condition, "helper", arguments)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "arguments",
    [
        '{"command": "ls", "command": "rm -rf x"}',
        '{"command": "rm -rf x", "command": "ls"}',
        '{"a": {"command": "rm -rf x", "command": "ls"}}',
    ],
)
async def test_of_a_key_that_stands_twice_both_values_are_judged(arguments: str) -> None:
    assert await is_blocked({"commands": "rm -rf"}, "Bash", arguments)
    allowing = policy_of({"action": "allow", "args": {"command": "ls"}}, default="block")
    assert (await judge(allowing, "Bash", arguments)).action == "block"


async def test_arguments_written_as_json_twice_are_read_twice() -> None:
    assert await is_blocked({"commands": "rm -rf"}, "Bash", json.dumps(json.dumps(BASH)))


async def test_a_tool_without_arguments_can_be_read() -> None:
    assert not await is_blocked({"commands": "rm -rf"}, "list_all", "")


@pytest.mark.parametrize(
    ("condition", "name", "arguments", "expected"),
    [
        ({"paths": "/etc/**"}, "apply_patch", "*** Begin Patch\n*** Update File: /etc/passwd\n", True),
        ({"paths": "/etc/**"}, "apply_patch", "*** Begin Patch\n*** Update File: a\n*** Move to: /etc/x\n", True),
        ({"paths": "/etc/**"}, "apply_patch", "*** Begin Patch\n*** Delete File: a\n", False),
        ({"kind": "file_write"}, "apply_patch", "*** Begin Patch\n*** Delete File: a\n", True),
        ({"commands": "rm -rf"}, "run_it", "rm -rf x", True),
        ({"commands": "rm -rf"}, "run_it", '{"cmd": "rm -rf x"}', True),
        ({"args": {"command": "*"}}, "run_it", "rm -rf x", False),
    ],
)
async def test_free_text_of_a_custom_tool_is_read(
    condition: dict[str, Any], name: str, arguments: str, expected: bool
) -> None:
    assert await is_blocked(condition, name, arguments, "custom") == expected


async def test_free_text_that_is_no_text_is_never_let_through_for_it() -> None:
    assert await is_blocked({"paths": "/etc/**"}, "apply_patch", "*** Add File: /\ud800*/passwd", "custom")


# What becomes of a call


async def test_the_first_rule_that_holds_decides() -> None:
    policy = policy_of(
        {"action": "allow", "tool": "Bash", "args": {"command": "ls*"}},
        {"action": "block", "tool": "Bash"},
        {"action": "allow", "tool": "*"},
        default="block",
    )
    assert (await judge(policy, "Bash", {"command": "ls -l"})).action == "allow"
    assert (await judge(policy, "Bash", {"command": "cat x"})).action == "block"
    assert (await judge(policy, "Read", {})).action == "allow"


@pytest.mark.parametrize("default", ["allow", "block"])
async def test_a_call_that_no_rule_holds_for_gets_the_default(default: str) -> None:
    assert (await judge(policy_of({"action": "allow", "tool": "x"}, default=default), "y", {})).action == default


async def test_the_client_is_told_the_message_and_the_operator_the_reason() -> None:
    policy = policy_of(
        {"action": "block", "tool": "Bash", "message": "No {tool_name} {here}.", "reason": "shells are off"},
        {"action": "block", "paths": "/etc/**"},
    )
    verdict = await judge(policy, "Bash", {})
    assert (verdict.message, verdict.reason) == ("No Bash {here}.", "shells are off: tool Bash")
    verdict = await judge(policy, "Write", {"file_path": "/etc/passwd", "content": ""})
    assert verdict.message is not None
    assert "Write" in verdict.message
    assert "/etc" not in verdict.message
    assert (verdict.reason, verdict.evidence) == ("rules.1: path", "/etc/passwd")


async def test_a_message_of_all_rules_can_be_set() -> None:
    policy = policy_of({"action": "block", "tool": "x"}, default="block", message="{tool_name}: no.")
    assert (await judge(policy, "x", {})).message == "x: no."
    assert (await judge(policy, "y", {})).message == "y: no."


@pytest.mark.parametrize(
    ("values", "arguments", "expected"),
    [
        ({"args.timeout": 5}, {"command": "ls"}, {"command": "ls", "timeout": 5}),
        ({"args.command": "true"}, {"command": "ls", "x": "é"}, {"command": "true", "x": "é"}),
        ({"args.a.b": None}, {}, {"a": {"b": None}}),
        ({"args.edits.*.dry": True}, {"edits": [{"x": 1}, {}]}, {"edits": [{"x": 1, "dry": True}, {"dry": True}]}),
        ({"args.list.0": "z"}, {"list": ["a", "b"]}, {"list": ["z", "b"]}),
        ({"args.a": 1, "args.b": 2}, {}, {"a": 1, "b": 2}),
    ],
)
async def test_a_rewrite_sets_values(values: dict[str, Any], arguments: Any, expected: Any) -> None:
    verdict = await judge(policy_of({"action": "rewrite", "tool": "*", "set": values}), "tool", arguments)
    assert verdict.action == "modify"
    [call] = verdict.calls
    assert json.loads(call.arguments) == expected
    assert (call.id, call.name) == ("call_1", "tool")


@pytest.mark.parametrize(
    ("values", "arguments", "form"),
    [
        ({"args.list.5": "z"}, {"list": ["a"]}, "function"),
        ({"args.text.x": "z"}, {"text": "a"}, "function"),
        ({"args.x": "z"}, "free text", "custom"),
        ({"args.x": "z"}, "{", "function"),
        ({"args.x": "z"}, "[]", "function"),
    ],
)
async def test_what_cannot_be_rewritten_is_blocked(values: dict[str, Any], arguments: Any, form: str) -> None:
    policy = policy_of({"action": "rewrite", "tool": "*", "set": values})
    assert (await judge(policy, "tool", arguments, form)).action == "block"


async def test_tools_of_ones_own_can_be_given_a_kind() -> None:
    policy = policy_of(
        {"action": "block", "commands": "rm -rf"},
        {"action": "block", "kind": "file_write", "paths": "/etc/**"},
        {"action": "block", "sql": "DROP"},
        kinds={"shell": ["Do_*", "re:^perform$"], "file_write": "keep", "sql": "ask"},
    )
    assert (await judge(policy, "do_it", {"anything": "rm -rf x"})).action == "block"
    assert (await judge(policy, "perform", {"anything": "rm -rf x"})).action == "block"
    assert (await judge(policy, "keep", {"where": "/etc/passwd"})).action == "block"
    assert (await judge(policy, "ask", {"question": "DROP TABLE x"})).action == "block"
    assert (await judge(policy, "other", {"anything": "rm -rf x", "where": "/etc/passwd"})).action == "allow"


# Through the executor


async def test_what_the_client_gets() -> None:
    policy = policy_of(
        {"action": "block", "commands": "rm", "message": "No {tool_name}."},
        {"action": "rewrite", "tool": "fetch", "set": {"args.safe": True}},
    )
    ctx = context()
    answer = [
        text("Working. "),
        *call(0, "Bash", '{"command": ', '"rm x"}'),
        *call(1, "Read", '{"path": "a"}'),
        *call(2, "fetch", "{}"),
        finish("tool_calls"),
    ]
    delivered = Delivered.of(await deliver(policy, answer, ctx))
    assert delivered.text == f"Working. \n\n{NOTICE_MARK} No Bash. (transaction transaction-1)"
    assert [(name, json.loads(arguments)) for _, name, arguments in delivered.calls] == [
        ("Read", {"path": "a"}),
        ("fetch", {"safe": True}),
    ]
    assert [(decision.action, decision.reason) for decision in ctx.decisions] == [
        ("block", "rules.0: command rm"),
        ("modify", "rules.1: tool fetch"),
    ]


# Settings


@pytest.mark.parametrize(
    ("config", "complaints"),
    [
        ({"rules": [{"action": "block", "args": {"command": "re:("}}]}, ["rules.0.args.command", "missing )"]),
        ({"rules": [{"action": "block", "tool": "a"}, {"action": "block", "tool": "re:[z-a]"}]}, ["rules.1.tool"]),
        ({"rules": [{"action": "block", "tool": ["a", "re:(?=b)"]}]}, ["rules.0.tool.1", "look-around"]),
        ({"rules": [{"action": "block", "paths": ["[z-a]"]}]}, ["rules.0.paths.0", "bad glob"]),
        ({"rules": [{"action": "block", "commands": ["-rf"]}]}, ["rules.0.commands.0", "begin with a program"]),
        ({"rules": [{"action": "block", "sql": "EXPLODE"}]}, ["rules.0.sql", "an unknown statement"]),
        ({"rules": [{"action": "block", "kind": "shel"}]}, ["rules.0.kind", "'shell'"]),
        ({"rules": [{"action": "block", "dangerous": "very"}]}, ["rules.0.dangerous"]),
        ({"rules": [{"action": "block"}]}, ["rules.0:", "give a condition"]),
        ({"rules": [{"action": "block", "dangerous": False}]}, ["rules.0:", "give a condition"]),
        ({"rules": [{"action": "block", "not": {}}]}, ["rules.0.not:", "give a condition"]),
        ({"rules": [{"action": "block", "any": []}]}, ["rules.0.any"]),
        ({"rules": [{"action": "block", "any": [{"all": [{"tool": "re:("}]}]}]}, ["rules.0.any.0.all.0.tool"]),
        ({"rules": [{"action": "block", "args": {}}]}, ["rules.0.args"]),
        ({"rules": [{"action": "block", "args": {"a..b": "x"}}]}, ["rules.0.args", "with a dot between"]),
        ({"rules": [{"action": "stop", "tool": "a"}]}, ["rules.0.action"]),
        ({"rules": [{"tool": "a"}]}, ["rules.0.action: missing"]),
        ({"rules": [{"action": "rewrite", "tool": "a"}]}, ["rules.0:", "needs `set`"]),
        ({"rules": [{"action": "block", "tool": "a", "set": {"args.x": 1}}]}, ["rules.0:", "no other action takes it"]),
        ({"rules": [{"action": "rewrite", "tool": "a", "set": {"x": 1}}]}, ["rules.0.set.x", 'write "args."']),
        ({"rules": [{"action": "allow", "tool": "a", "message": "x"}]}, ["rules.0:", "takes none"]),
        ({"rules": [{"action": "block", "tol": "a"}]}, ["rules.0.tol: unknown key"]),
        ({"default": "deny"}, ["default"]),
        ({"kinds": {"shell": ["re:("]}}, ["kinds.shell"]),
        ({"kinds": {"files": ["a"]}}, ["kinds.files"]),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(config: dict[str, Any], complaints: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_policy(CLASS, config)
    for complaint in complaints:
        assert complaint in str(refusal.value)
    assert "policy.config." in str(refusal.value)


def test_the_settings_have_a_json_schema() -> None:
    schema = ToolRules.Config.model_json_schema()
    assert "any" in schema["$defs"]["Rule"]["properties"]
    assert "not" in schema["$defs"]["Rule"]["properties"]


# Whatever comes

KEYS = st.sampled_from(["command", "path", "content", "url", "query", "code", "args", "cwd", "diff", "sql", "language"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=3),
)
NAMES = st.sampled_from(["Bash", "Write", "execute_sql", "WebFetch", "str_replace_editor", "apply_patch"]) | st.text()


@given(NAMES, st.text() | JSON.map(json.dumps), st.sampled_from(["function", "custom", "legacy_function"]))
async def test_any_call_gets_a_verdict(name: str, arguments: str, form: str) -> None:
    policy = policy_of(
        {"action": "allow", "tool": "re:^a", "args": {"*": "b", "command.0": "c"}},
        {"action": "rewrite", "args": {"command": "*"}, "set": {"args.command.x": 1, "args.*.y": 2}},
        {
            "action": "block",
            "any": [{"paths": "/etc/**"}, {"commands": "rm"}, {"sql": "DROP"}, {"dangerous": "strict"}],
        },
        {"action": "block", "hosts_outside": ["localhost"]},
    )
    assert (await judge(policy, name, arguments, form)).action in ("allow", "modify", "block")


# A person is asked


async def test_a_rule_asks_a_person_with_its_reason_and_the_beginning_of_its_message() -> None:
    policy = policy_of({"action": "ask", "commands": ["git push"], "message": "{tool_name} leaves.", "reason": "team"})
    verdict = await judge(policy, "Bash", {"command": "git push origin main"})
    assert (verdict.action, verdict.message, verdict.reason) == ("ask", "Bash leaves.", "team: command git push")
    assert (await judge(policy, "Bash", {"command": "git status"})).action == "allow"


async def test_a_rule_asks_about_what_it_cannot_read() -> None:
    assert (await judge(policy_of({"action": "ask", "commands": ["git push"]}), "Bash", "{")).action == "ask"


async def test_the_default_may_be_a_question() -> None:
    policy = policy_of({"action": "allow", "tool": "Read"}, default="ask")
    assert (await judge(policy, "Read", {})).action == "allow"
    assert (await judge(policy, "Write", {})).action == "ask"


async def test_of_two_readings_the_stricter_verdict_counts() -> None:
    rules = [{"action": "ask", "args": {"mode": "b"}}, {"action": "block", "args": {"mode": "c"}}]
    twice = [('{"mode": "a", "mode": "b"}', "ask"), ('{"mode": "b", "mode": "c"}', "block")]
    for arguments, action in twice:
        assert (await judge(policy_of(*rules), "x", arguments)).action == action
