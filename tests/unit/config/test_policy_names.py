"""What short names stand for, those of other packages too, and the schema of each policy's settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.config.policy_spec import config_schema
from luthien_litellm_hooks.policies import SHORT_NAMES

MODULE = """
from luthien_litellm_hooks import PolicyConfig, SimplePolicy


class ShoutConfig(PolicyConfig):
    volume: int = 11
    \"\"\"How loud.\"\"\"


class Shout(SimplePolicy):
    Config = ShoutConfig
"""


def luthien_hooks(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The command, with the packages in `path` installed too."""
    command = [str(Path(sys.executable).with_name("luthien-hooks")), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "400"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package that offers two policies."""
    (tmp_path / "shouting.py").write_text(MODULE)
    info = tmp_path / "shouting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[luthien_litellm_hooks.policies]\nshout = shouting:Shout\nnoop = shouting:Shout\n"
    )
    return tmp_path


def test_a_package_brings_a_policy_under_a_short_name(package: Path) -> None:
    done = luthien_hooks("schema", "shout", path=package)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["properties"]["volume"] == {
        "default": 11,
        "description": "How loud.",
        "title": "Volume",
        "type": "integer",
    }


def test_a_name_that_is_offered_twice_is_refused(package: Path) -> None:
    done = luthien_hooks("schema", "noop", path=package)
    assert done.returncode == 2
    assert "duplicate name 'noop': write luthien_litellm_hooks.policies.noop:NoOp or shouting:Shout" in done.stderr


def test_a_name_that_nobody_offers_is_refused_with_the_nearest(package: Path) -> None:
    done = luthien_hooks("schema", "shoot", path=package)
    assert done.returncode == 2
    assert "did you mean 'shout'?" in done.stderr


@pytest.mark.parametrize("name", [*SHORT_NAMES, *COMPOSITIONS])
def test_every_policy_has_a_schema_that_allows_no_other_keys(name: str) -> None:
    schema = config_schema(name)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", [*SHORT_NAMES, *COMPOSITIONS])
def test_every_setting_says_what_it_is(name: str) -> None:
    fields: dict[str, Any] = config_schema(name).get("properties", {})
    assert [key for key, field in fields.items() if "description" not in field] == []


def test_without_a_name_the_schema_is_that_of_all_settings(tmp_path: Path) -> None:
    done = luthien_hooks("schema", path=tmp_path)
    assert json.loads(done.stdout)["properties"].keys() >= {"policy", "on_block", "ungoverned_routes", "queue"}
