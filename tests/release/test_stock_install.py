"""The wheel goes into the environment of a stock proxy, as LiteLLM's images have it, and changes nothing there.

It takes a minute to make that environment, so only `make test-matrix` runs these tests.
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from luthien_litellm_hooks.cli.demo.proxy import HOST, is_serving
from tests.support.postgres import spend_logs
from tests.support.prisma_client import generate_into, prisma_environment
from tests.support.proxy import KEY, ROOT, START_SECONDS, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.stock

PRISMA = "0.11.0"
UV = Path(sysconfig.get_path("scripts")) / "uv"
CONFIG = """
model_list:
  - model_name: scripted
    litellm_params: {model: openai/scripted, api_base: os.environ/SCRIPTED_PROVIDER_URL, api_key: k}
general_settings:
  store_prompts_in_spend_logs: true
litellm_settings:
  callbacks: ["luthien_litellm_hooks.luthien"]
callback_settings:
  luthien: {policy: {class: block_dangerous_commands}}
"""


@dataclass(frozen=True)
class Stock:
    """An environment that a proxy was installed into before the wheel was."""

    folder: Path
    before: set[str]
    """What it had, each with its version."""

    @property
    def scripts(self) -> Path:
        return self.folder / "bin"

    def packages(self) -> set[str]:
        return set(uv("pip", "freeze", "--python", self.scripts / "python").splitlines())


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def uv(*arguments: str | Path) -> str:
    return run(UV, *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def stock(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """This release of LiteLLM with the Prisma of its images and a generated client, and then the wheel."""
    folder = tmp_path_factory.mktemp("stock") / "venv"
    stock = Stock(folder, set())
    uv("venv", "--python", sys.executable, folder)
    install = ("pip", "install", "--compile-bytecode", "--python", stock.scripts / "python")
    uv(*install, f"litellm[proxy]=={version('litellm')}", f"prisma=={PRISMA}", "opentelemetry-sdk==1.33.1")
    generate_into(stock.scripts, PRISMA)
    stock.before.update(stock.packages())
    pins = folder.with_name("pins.txt")
    pins.write_text(run(stock.scripts / "python", ROOT / "deploy" / "pins.py"))
    uv(*install, "-c", pins, wheel)  # as deploy/Dockerfile does
    return stock


def test_no_package_that_was_there_is_changed(stock: Stock) -> None:
    assert f"prisma=={PRISMA}" in stock.before
    assert stock.before - stock.packages() == set()
    assert any(line.startswith("luthien-litellm-hooks") for line in stock.packages())


@contextmanager
def demo(stock: Stock, folder: Path, environment: dict[str, str]) -> Generator[str]:
    """The URL of a proxy of this environment, in front of a scripted model."""
    config, port = folder / "config.yaml", free_port()
    config.write_text(CONFIG)
    command = [stock.scripts / "luthien-hooks", "demo", "--config", config, "--port", str(port)]
    with (
        (folder / "output.txt").open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            wait_until(lambda: is_serving(port) or process.poll() is not None, START_SECONDS)
            assert process.poll() is None, (folder / "output.txt").read_text()
            yield f"http://{HOST}:{port}"
        finally:
            process.terminate()


def test_a_blocked_call_has_a_whole_row_and_is_shown(stock: Stock, postgres_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, **prisma_environment(postgres_url, PRISMA), "LITELLM_MASTER_KEY": KEY}
    environment |= {"PYTHONPATH": "", "PROXY_BATCH_WRITE_AT": "1"}
    with demo(stock, tmp_path, environment) as url, httpx.Client(base_url=url, timeout=60) as client:
        admin = {"Authorization": f"Bearer {KEY}"}
        key = client.post("/key/generate", headers=admin, json={}).raise_for_status().json()["key"]
        body = {"model": "scripted", "messages": [{"role": "user", "content": 'call: Bash {"command": "rm -rf /"}'}]}
        client.post("/v1/chat/completions", headers={"Authorization": f"Bearer {key}"}, json=body).raise_for_status()
        [row] = spend_logs(postgres_url, key)
    command = [stock.scripts / "luthien-hooks", "show", row["request_id"], "--json"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    record = json.loads(shown.stdout)["record"]
    assert record["outcome"] == "blocked"
    assert "block_dangerous_commands" in [policy["name"] for policy in record["policies"]]
    assert "rm -rf /" in json.dumps(record["original"]["answer"])
    assert "A policy blocked the call" in json.dumps(record["final"]["answer"])
    assert "rm -rf /" not in json.dumps(record["final"]["answer"])
