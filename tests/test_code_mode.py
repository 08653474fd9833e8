"""Scripts of a code mode: the tools that they call are judged, and what is not plain to read is not let through."""

import pytest

from luthien_litellm_hooks import ToolCall
from luthien_litellm_hooks.policies.block_dangerous_commands import BlockDangerousCommands
from luthien_litellm_hooks.policies.block_sensitive_file_writes import BlockSensitiveFileWrites
from luthien_litellm_hooks.policies.code_mode import calls_of
from tests.support.chat import context
from tests.test_presets import PRESETS, preset

LISTS = 'const r = await tools.exec_command({cmd: "ls -la", workdir: "/p"});\ntext(r.output);'
HARMLESS = [
    LISTS,
    'let r = await tools.exec_command({"cmd": `git status`});',
    'const a = await tools.exec_command({cmd: "ls"}); // look\n'
    'const b = await tools.read_file({path: "a.py", lines: [1, 2]});\ntext(a.output + b);',
    'const r = await tools.apply_patch("*** Begin Patch\\n*** Add File: a.py\\n+x\\n*** End Patch");',
]
DANGEROUS = [
    LISTS.replace("ls -la", "rm -rf /"),
    LISTS + '\nawait tools.exec_command({cmd: "rm -rf ~"});',
    LISTS.replace('"ls -la"', '"rm " + "-rf /"'),
    LISTS.replace('"ls -la"', "command"),
    LISTS.replace('"ls -la"', "`rm -rf ${x}`"),
    LISTS.replace('"ls -la"', '"r\\x6d -rf /"'),
    LISTS + '\nconst t = tools; t.exec_command({cmd: "rm -rf /"});',
    LISTS + '\ntools["exec_command"]({cmd: "rm -rf /"});',
    LISTS + '\nr["constr" + "uctor"]("x");',
    LISTS + '\nrequire("child_process");',
    LISTS + '\neval("x");',
    LISTS.replace('cmd: "ls -la"', 'cmd: "ls", cmd: "rm -rf /"'),
    "rm -rf /\n" + LISTS,
    "tools.x()\n{ rm -rf ~; }\na=too\n${a}ls.x",
    LISTS.replace("const r = ", "") + "\n__import__('os')",
    "// a\nrm -rf /\n" + LISTS,
]


@pytest.mark.parametrize("script", HARMLESS)
@pytest.mark.parametrize("cls", PRESETS)
async def test_an_ordinary_script_passes_every_preset(cls: type, script: str) -> None:
    verdict = await preset(cls).judge_tool_call(ToolCall("c", "exec", script, "custom"), context())
    assert verdict.action == "allow", verdict.reason


@pytest.mark.parametrize("script", DANGEROUS)
async def test_what_a_script_may_do_is_judged(script: str) -> None:
    verdict = await preset(BlockDangerousCommands).judge_tool_call(ToolCall("c", "exec", script, "custom"), context())
    assert verdict.action == "block"


async def test_the_files_that_a_script_writes_are_judged() -> None:
    script = HARMLESS[-1].replace("a.py", "/etc/passwd")
    verdict = await preset(BlockSensitiveFileWrites).judge_tool_call(ToolCall("c", "exec", script, "custom"), context())
    assert verdict.action == "block"


def test_the_calls_are_read_as_they_are_made() -> None:
    assert calls_of(LISTS) == (ToolCall(None, "exec_command", '{"cmd": "ls -la", "workdir": "/p"}'),)
    assert calls_of("ls -la") is None
    assert calls_of("const a = await tools.x({a: " + "[" * 5_000) is None
