"""The README is true: its blocks are run, and its tables name what there is."""

import re
from typing import Any

import pytest
import yaml

import luthien_litellm_hooks
from luthien_litellm_hooks import Policy
from luthien_litellm_hooks.config import Settings, build_executor, load_settings
from luthien_litellm_hooks.policies import SHORT_NAMES
from tests.support.chat import Delivered, call, deliver, finish, text
from tests.support.proxy import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def first_column(header: str) -> list[str]:
    """The names in back quotes in the first column of the table that begins with `header`."""
    table = README.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_config_block_is_a_config() -> None:
    [block] = blocks("yaml")
    config = yaml.safe_load(block)
    assert build_executor(load_settings(config["callback_settings"], {})).name == "all_caps"
    module, _, attribute = config["litellm_settings"]["callbacks"][0].rpartition(".")
    assert (module, attribute) == ("luthien_litellm_hooks", "luthien")


async def test_the_policy_block_is_a_policy() -> None:
    namespace: dict[str, Any] = {}
    [block] = blocks("python")
    exec(compile(block, "README.md", "exec"), namespace)
    items = [text("t"), *call(0, "shell", "{}"), *call(1, "search", "{}"), finish("tool_calls")]
    delivered = Delivered.of(await deliver(namespace["NoShell"](), items))
    assert (delivered.text, [name for _, name, _ in delivered.calls]) == ("t", ["search"])


def test_the_hook_table_is_complete() -> None:
    hooks = [name for name in vars(Policy) if name.startswith(("on_", "process_"))]
    assert sorted(first_column("Hook")) == sorted(hooks)


def test_the_policy_table_is_complete() -> None:
    assert set(first_column("Policy")) == set(SHORT_NAMES)


def test_the_settings_table_is_complete() -> None:
    schema = Settings.model_json_schema(by_alias=True)
    keys = {
        f"{section}.{key}"
        for section, name in (("policy", "PolicySpec"), ("queue", "QueueSettings"))
        for key in schema["$defs"][name]["properties"]
    }
    keys |= schema["properties"].keys() - {"policy", "queue"}
    assert set(first_column("Key under `callback_settings.luthien`")) == keys


@pytest.mark.parametrize("name", re.findall(r"`(send_\w+|passthrough_\w+)`", README))
def test_each_helper_that_is_named_is_exported(name: str) -> None:
    assert name in luthien_litellm_hooks.__all__
