"""Real proxies that must not start, and say why: a wrong config, no master key, a compromised release."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.hooks import TESTED
from tests.support.proxy import (
    KEY,
    PYTHON,
    ROOT,
    START_SECONDS,
    free_port,
    litellm_process,
    proxy_config,
    starting_proxy,
)
from tests.unit.cli.test_check_command import BROKEN, NO_KEY, RIGHT, UNNAMED
from tests.unit.config.test_versions import compromised as compromised

BAD = {
    "no settings": (None, "no policy is set"),
    "wrong class": ({"policy": {"class": "all_cap"}}, "callback_settings.luthien.policy.class: unknown policy"),
    "wrong key": (
        {"policy": {"class": "all_caps", "config": {"tool_argument": True}}},
        "callback_settings.luthien.policy.config.tool_argument: unknown key; did you mean 'tool_arguments'?",
    ),
    "wrong value": (
        {"policy": {"class": "all_caps", "timeout_s": "soon"}},
        "callback_settings.luthien.policy.timeout_s: Input should be a valid number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_proxy_with_a_wrong_config_does_not_start_and_says_why(name: str, tmp_path: Path) -> None:
    settings, message = BAD[name]
    config = proxy_config("http://127.0.0.1:9", settings or {})
    if settings is None:
        del config["callback_settings"]
    assert _start_and_fail(config, tmp_path / "bad", {}).count(message)


def test_a_proxy_takes_its_policy_from_the_file_that_the_environment_names(tmp_path: Path) -> None:
    policy_file = tmp_path / "policy.yaml"
    policy_file.write_text("policy: {class: all_caps, config: {tool_argument: true}}")
    config = proxy_config("http://127.0.0.1:9", {})
    del config["callback_settings"]
    output = _start_and_fail(config, tmp_path / "bad", {"LUTHIEN_POLICY_CONFIG": str(policy_file)})
    assert "policy.config.tool_argument: unknown key" in output


def _start_and_fail(config: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> str:
    with starting_proxy(config, folder, environment) as (process, proxy):
        assert process.wait(START_SECONDS) != 0
        return proxy.output


def write(folder: Path, config: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(config)
    (folder / "policy.yaml").write_text("policy: {class: noop}\n")
    return path


def output_of_failing(config: Path, environment: Mapping[str, str]) -> str:
    """What a proxy writes that ends by itself."""
    log = config.with_name("output.txt")
    with litellm_process(config, free_port(), {**PYTHON, **environment}, log) as process:
        assert process.wait(START_SECONDS) != 0
    return log.read_text()


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("a key that stands twice", {}, ":7: error: callback_settings.luthien.policy: duplicate key"),
        (
            "other callbacks",
            {"LITELLM_WORKER_STARTUP_HOOKS": "luthien_litellm_hooks.hooks.config_file:require_policy"},
            ":2: error: litellm_settings.callbacks: the plugin is not named",
        ),
    ],
    ids=["a key that stands twice", "not named"],
)
def test_a_real_proxy_ends_with_the_key_and_the_line(
    name: str, environment: Mapping[str, str], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path, {**BROKEN, **UNNAMED}[name])
    assert f"{path}{said}" in output_of_failing(path, {"LITELLM_MASTER_KEY": KEY, **environment})


@pytest.mark.parametrize("name", ["none", "a publicly known one"])
def test_a_real_proxy_refuses_what_is_said_to_be_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, more = NO_KEY[name]
    monkeypatch.delenv("LITELLM_MASTER_KEY", raising=False)
    environment = {} if key is None else {"LITELLM_MASTER_KEY": key}
    assert "refused to start" in output_of_failing(write(tmp_path, RIGHT + more), environment)


def test_a_proxy_of_a_compromised_release_does_not_start(compromised: str, tmp_path: Path) -> None:
    config = proxy_config("http://127.0.0.1:9", {"policy": {"class": "noop"}})
    with starting_proxy(config, tmp_path / "proxy", {"PYTHONPATH": f"{compromised}:{ROOT}"}) as (process, proxy):
        assert process.wait(START_SECONDS) != 0
    assert "ConfigError: LiteLLM 1.107.0 is a compromised release" in proxy.output
    assert f"Rebuild the environment with LiteLLM {TESTED[0]}" in proxy.output
