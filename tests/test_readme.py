"""README and docs are true: their blocks are run, and their tables name what there is."""

import re
from typing import Any

import pytest
import yaml

import luthien_litellm_hooks
from luthien_litellm_hooks import Policy
from luthien_litellm_hooks.composition import Serial
from luthien_litellm_hooks.config import Settings, build_executor, load_settings
from luthien_litellm_hooks.policies import SHORT_NAMES
from luthien_litellm_hooks.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.testing import Call, Say, run_policy
from tests.support.proxy import ROOT

README = (ROOT / "README.md").read_text()
POLICIES = (ROOT / "docs/policies.md").read_text()
WRITING = (ROOT / "docs/writing-policies.md").read_text()


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def first_column(header: str, text: str) -> list[str]:
    """The names in back quotes in the first column of the table that begins with `header`."""
    table = text.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def names(code: str) -> dict[str, Any]:
    """What a block of Python defines."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "a block", "exec"), namespace)
    return namespace


def test_the_config_block_is_a_config() -> None:
    [block] = blocks("yaml", README)
    config = yaml.safe_load(block)
    composition = build_executor(load_settings(config["callback_settings"], {})).composition
    assert isinstance(composition, Serial)
    assert len(composition.members) == 3
    module, _, attribute = config["litellm_settings"]["callbacks"][0].rpartition(".")
    assert (module, attribute) == ("luthien_litellm_hooks", "luthien")


async def test_the_policy_block_is_a_policy() -> None:
    [block] = blocks("python", README)
    outcome = await run_policy(names(block)["NoShell"](), [Say("t"), Call("shell", "{}"), Call("search", "{}")])
    assert (outcome.text, [call.name for call in outcome.tool_calls]) == ("t", ["search"])


@pytest.mark.parametrize("block", blocks("yaml", POLICIES))
def test_each_config_of_the_docs_loads(block: str) -> None:
    build_executor(load_settings({"luthien": yaml.safe_load(block)}, {}))


async def test_the_policies_of_the_docs_work() -> None:
    bases, settings, testing = (names(block) for block in blocks("python", WRITING))
    assert (await run_policy(bases["Whisper"](), "LOUD")).text == "loud"
    friday = await run_policy(bases["NoFridayDeploys"](), [Call("deploy", "{}"), Call("test", "{}")])
    assert friday.text == "[luthien] Nothing is deployed on Fridays."
    assert [call.name for call in friday.tool_calls] == ["test"]
    no_tools = settings["NoTools"](settings["NoToolsConfig"](tools=("rm",)))
    assert (await run_policy(no_tools, [Call("rm", "{}"), Call("ls", "{}")])).tool_calls[0].name == "ls"
    await testing["test_the_shell_is_withheld"]()


def test_the_hook_table_is_complete() -> None:
    hooks = [name for name in vars(Policy) if name.startswith(("on_", "process_"))]
    assert sorted(first_column("Hook", WRITING)) == sorted(hooks)


def test_the_policy_table_is_complete() -> None:
    assert set(first_column("Policy", README)) == {*SHORT_NAMES, *COMPOSITIONS}


@pytest.mark.parametrize("name", [*SHORT_NAMES, *COMPOSITIONS])
def test_the_docs_tell_of_each_policy(name: str) -> None:
    assert f"`{name}`" in POLICIES


def test_the_settings_table_is_complete() -> None:
    schema = Settings.model_json_schema(by_alias=True)
    sections = {key: field["$ref"].rpartition("/")[2] for key, field in schema["properties"].items() if "$ref" in field}
    keys = {f"{section}.{key}" for section, name in sections.items() for key in schema["$defs"][name]["properties"]}
    keys |= schema["properties"].keys() - sections.keys()
    assert set(first_column("Key under `callback_settings.luthien`", README)) == keys


@pytest.mark.parametrize("name", re.findall(r"`(send_\w+|passthrough_\w+)`", README + WRITING))
def test_each_helper_that_is_named_is_exported(name: str) -> None:
    assert name in luthien_litellm_hooks.__all__
