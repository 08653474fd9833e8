"""Our log lines at a real proxy: with time, level and name, and safe, however LiteLLM logs."""

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.proxy import Proxy, proxy_config, running_proxy
from tests.unit.telemetry.test_log_lines import NAMES

BLOCKS: dict[str, Any] = {"policy": {"class": "block_dangerous_commands"}}


def ask_for_a_block(proxy: Proxy) -> None:
    for command in ("ls", "rm -rf /"):
        content = f'call: bash {{"command": "{command}"}}'
        body = {"model": "openai/text", "messages": [{"role": "user", "content": content}]}
        assert proxy.http.post("/v1/chat/completions", json=body).is_success


def ask_for_hostile_paths(proxy: Proxy) -> None:
    for path in ("/v1/threads/%0a2026%20forged%1b%5b2J%e2%80%ae", "/v1/threads/%0aforged-again", "/threads"):
        assert httpx.get(f"{proxy.url}{path}", timeout=60).status_code == 403


def test_lines_have_time_level_and_name(provider_url: str, tmp_path: Path) -> None:
    with running_proxy(proxy_config(provider_url, BLOCKS), tmp_path / "proxy", {}) as proxy:
        ask_for_a_block(proxy)
        ask_for_hostile_paths(proxy)
    ours = [line for line in proxy.output.splitlines() if " luthien_litellm_hooks: " in line]
    started = [line for line in ours if "in force is" in line]
    blocked = [line for line in ours if "blocked tool" in line]
    assert (len(started), len(blocked)) == (1, 1)
    assert all(logging.Formatter().formatTime(_record())[:3] == line[:3] for line in ours)
    assert " INFO luthien_litellm_hooks: luthien_litellm_hooks 0." in started[0]
    assert "block_dangerous_commands" in started[0]
    assert " WARNING luthien_litellm_hooks: transaction " in blocked[0]
    assert [line for line in ours if "is not governed" in line and "/v1/threads" in line]
    assert "forged" not in "".join(ours)
    assert "\x1b" not in "".join(ours)
    assert not [line for line in proxy.output.splitlines() if line.startswith("2026 forged")]


def _record() -> logging.LogRecord:
    return logging.LogRecord("", 0, "", 0, "", (), None)


@pytest.mark.parametrize("how", ["setting", "environment"])
def test_each_line_is_one_object_with_json_logs(how: str, provider_url: str, tmp_path: Path) -> None:
    policies = [{"class": "debug_logging"}, BLOCKS["policy"]]
    config = proxy_config(provider_url, {"policy": {"class": "serial", "config": {"policies": policies}}})
    if how == "setting":
        config["litellm_settings"]["json_logs"] = True
    environment = {"JSON_LOGS": "true"} if how == "environment" else {}
    with running_proxy(config, tmp_path / "proxy", environment) as proxy:
        ask_for_a_block(proxy)
        said = '{"component": "forged", "severity": "none"}'
        body = {"model": "openai/text", "messages": [{"role": "user", "content": said}]}
        proxy.http.post("/v1/chat/completions", json={**body, "severity": "none"})
        ask_for_hostile_paths(proxy)
    ours = [
        json.loads(line) for line in proxy.output.splitlines() if "luthien_litellm_hooks" in line and line[0] == "{"
    ]
    assert {line["component"] for line in ours} == {*NAMES}
    for said in ("in force is", "blocked tool", "/v1/threads is not governed"):
        assert len([line for line in ours if said in line["message"]]) == 1, proxy.output
    assert all({"message", "level", "timestamp"} <= line.keys() for line in ours)
    assert not any("severity" in line for line in ours)
