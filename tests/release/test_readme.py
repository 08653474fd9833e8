"""The tables of README and docs name all that there is, and nothing else."""

import re

import pytest

import luthien_litellm_hooks
from luthien_litellm_hooks import Policy
from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.config.settings import Settings
from luthien_litellm_hooks.policies import SHORT_NAMES
from tests.support.proxy import ROOT

README = (ROOT / "README.md").read_text()
POLICIES = (ROOT / "docs/policies.md").read_text()
WRITING = (ROOT / "docs/writing-policies.md").read_text()


def first_column(header: str, text: str) -> list[str]:
    """The names in back quotes in the first column of the table that begins with `header`."""
    table = text.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


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


@pytest.mark.parametrize(
    "name", sorted({*re.findall(r"`((?:send|passthrough|drop)_\w+)", WRITING), *first_column("Base", WRITING)})
)
def test_each_helper_and_base_that_is_named_is_exported(name: str) -> None:
    assert name in luthien_litellm_hooks.__all__
