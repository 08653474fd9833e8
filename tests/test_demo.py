"""`luthien-hooks demo`, which `make run` starts: the printed commands work, and nothing is left behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from luthien_litellm_hooks import __version__
from luthien_litellm_hooks.cli import app
from tests.support.proxy import ROOT, free_port
from tests.support.waiting import wait_until

COMMAND = Path(sysconfig.get_path("scripts")) / "luthien-hooks"


@pytest.fixture(scope="module")
def demo() -> Generator[Any]:
    """The running demo and what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "LITELLM_MASTER_KEY"}
    process = subprocess.Popen(
        [COMMAND, "demo", "--port", str(free_port())],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C ends it" in line:
            break
    yield process, "".join(lines)
    process.kill()
    process.wait()


def commands(output: str) -> list[str]:
    """The commands of a demo, as somebody copies them."""
    return re.findall(r"^curl .*?\n(?=\n)", output, re.MULTILINE | re.DOTALL)


def test_no_line_of_a_command_is_broken_by_a_terminal_of_80_columns(demo: Any) -> None:
    _, output = demo
    assert len(commands(output)) == 2
    assert [line for command in commands(output) for line in command.splitlines() if len(line) >= 80] == []


def test_the_printed_commands_show_the_policy_at_work(demo: Any) -> None:
    assert shutil.which("curl"), "the demo prints curl commands, so this test runs curl"
    _, output = demo
    whole, streamed = commands(output)
    answer = _run(whole)
    assert '"content":"YOU SAID: HELLO"' in answer
    stream = _run(streamed)
    assert "".join(re.findall(r'"content":"([^"]*)"', stream)) == "YOU SAID: HELLO"
    assert stream.rstrip().endswith("data: [DONE]")


def test_each_step_is_told(demo: Any) -> None:
    process, output = demo
    assert "YOU SAID" in _run(commands(output)[0])
    told: list[str] = []
    for line in process.stdout:
        told += re.findall(r"^\S{4}  (asked|came|left|ended) +(.*)$", line)
        if told and told[-1][0] == "ended":
            break
    assert told == [("asked", "hello"), ("came", "You said: hello"), ("left", "YOU SAID: HELLO"), ("ended", "complete")]


def _run(command: str) -> str:
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True).stdout


def test_stopping_it_leaves_nothing_running(demo: Any) -> None:
    process, _ = demo
    children = _descendants(process.pid)
    assert children, "the proxy runs as a child"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def _descendants(pid: int) -> list[int]:
    listed = _run("ps -eo pid=,ppid=")
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for parent in found:
        found += [child for child in parents if parents[child] == parent]
    return found[1:]


def test_a_port_that_is_taken_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = subprocess.run(
            [COMMAND, "demo", "--port", str(port)], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert result.returncode == 1
    assert f"Port {port} is taken" in result.stderr


def test_of_two_that_begin_at_once_the_second_says_that_the_port_is_taken() -> None:
    command = [COMMAND, "demo", "--port", str(free_port())]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    try:
        wait_until(lambda: any(process.poll() is not None for process in both), 60)
        ended = next(process for process in both if process.poll() is not None)
        assert ended.returncode == 1
        assert ended.stdout is not None
        assert f"Port {command[-1]} is taken" in ended.stdout.read()
        assert [process.poll() for process in both if process is not ended] == [None]
    finally:
        for process in both:
            process.terminate()
            process.wait(20)


def test_a_config_that_is_wrong_is_not_served(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "litellm_settings: {callbacks: [luthien_litellm_hooks.luthien]}\ncallback_settings: {luthien: {}}\n"
    )
    result = CliRunner().invoke(app, ["demo", "--config", str(config), "--port", str(free_port())])
    assert result.exit_code == 1
    assert f"{config}:2: error: callback_settings.luthien.policy: missing" in result.stderr


def test_the_command_tells_its_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, __version__)
