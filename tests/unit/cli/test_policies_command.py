"""`luthien-hooks policies`: each policy is listed, and shown with settings and an example that works."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.policies import SHORT_NAMES
from tests.unit.config.test_policy_names import luthien_hooks
from tests.unit.config.test_policy_names import package as package

NAMES = [*SHORT_NAMES, *COMPOSITIONS]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policies", *arguments], env={"COLUMNS": "160"})


def test_the_list_has_every_policy_with_what_it_does() -> None:
    listed = json.loads(run("list", "--json").stdout)["policies"]
    assert [policy["name"] for policy in listed] == NAMES
    assert all(policy["summary"].endswith((".", ":")) for policy in listed)
    shown = run("list")
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_shown_with_its_settings_and_an_example_that_loads(name: str) -> None:
    shown = json.loads(run("show", name, "--json").stdout)
    build_executor(load_settings({"luthien": yaml.safe_load(shown["example"])}, {}))
    done = run("show", name)
    assert done.exit_code == 0
    assert all(key in done.stdout for key in shown["schema"]["properties"])


def test_a_setting_is_told_with_what_it_may_be_and_what_it_is() -> None:
    words = " ".join(run("show", "llm_rules").stdout.split())
    assert "rules list of section required" in words
    assert 'rules[].action "block" | "replace" | "note" "block"' in words


def test_a_policy_of_another_package_is_listed_and_shown(package: Path) -> None:
    listed = luthien_hooks("policies", "list", path=package)
    assert "shout" in listed.stdout
    assert listed.returncode == 1
    assert "duplicate name 'noop'" in listed.stderr
    shown = luthien_hooks("policies", "show", "shout", path=package)
    assert "shouting:Shout" in shown.stdout
    assert "volume" in shown.stdout


def test_a_policy_by_its_class() -> None:
    assert "luthien_litellm_hooks.policies.noop:NoOp" in run("show", "luthien_litellm_hooks.policies.noop:NoOp").stdout


@pytest.mark.parametrize("name", ["secrts", "no_such_module:Policy", "collections:OrderedDict", "\x1b[31m"])
def test_a_policy_that_there_is_not_is_told(name: str) -> None:
    done = run("show", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(name.replace("\x1b", "\\x1b"))
    assert "Traceback" not in done.stderr
