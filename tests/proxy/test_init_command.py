"""`luthien-hooks init`: its config is right, serves, and replaces nothing that is there."""

import re
import shlex
import stat
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
import yaml
from typer.testing import CliRunner, Result

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.cli.demo.proxy import HOST, is_serving, proxy_process
from luthien_litellm_hooks.cli.starter import PROVIDERS
from luthien_litellm_hooks.testing import Call, Say, ScriptedAnswer, ScriptedProvider, serve
from tests.support.proxy import free_port
from tests.support.waiting import wait_until

START_SECONDS = 120


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LITELLM_MASTER_KEY", raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["init", *arguments])


def key_in(file: str) -> str:
    return yaml.safe_load(Path(file).read_text())["general_settings"]["master_key"]


@pytest.mark.parametrize("providers", [(), *((name,) for name in PROVIDERS), tuple(PROVIDERS)], ids="-".join)
def test_its_config_passes_the_check_and_names_no_key_of_a_provider(providers: tuple[str, ...]) -> None:
    done = run(*(word for name in providers for word in ("--provider", name)))
    assert done.exit_code == 0, done.output
    checked = CliRunner().invoke(app, ["check", "litellm_config.yaml"])
    assert (checked.exit_code, checked.stderr) == (0, "")
    assert "It sets serial, block_dangerous_commands, secrets." in checked.stdout
    models = yaml.safe_load(Path("litellm_config.yaml").read_text())["model_list"]
    for name in providers or ("anthropic", "openai"):
        [settings] = [model["litellm_params"] for model in models if model["model_name"] == f"{name}/*"]
        assert settings.pop("model") == f"{name}/*"
        assert settings == {setting: f"os.environ/{variable}" for setting, variable in PROVIDERS[name].items()}
        assert all(variable in done.stdout for variable in PROVIDERS[name].values())


def test_each_key_is_new_and_only_for_its_owner() -> None:
    assert run("a.yaml").exit_code == run("b.yaml").exit_code == 0
    assert re.fullmatch(r"sk-[0-9a-f]{32}", key_in("a.yaml"))
    assert key_in("a.yaml") != key_in("b.yaml")
    assert stat.S_IMODE(Path("a.yaml").stat().st_mode) == 0o600


def test_a_file_that_is_there_is_replaced_only_by_force() -> None:
    file = Path("litellm_config.yaml")
    file.write_text("mine")
    file.chmod(0o644)
    done = run()
    assert (done.exit_code, done.stdout, file.read_text()) == (1, "", "mine")
    assert "--force" in done.stderr
    assert run("--force").exit_code == 0
    assert key_in("litellm_config.yaml")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_link_is_not_followed() -> None:
    Path("link.yaml").symlink_to("elsewhere.yaml")
    assert run("link.yaml").exit_code == 1
    assert run("link.yaml", "--force").exit_code == 0
    assert not Path("elsewhere.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--provider", "antropic"], "did you mean 'anthropic'?"),
        (["--provider", "nobody"], "known are anthropic, openai"),
        (["missing/config.yaml"], "missing/config.yaml cannot be written: No such file or directory"),
        ([".", "--force"], ". cannot be written"),
    ],
)
def test_what_cannot_be_written_is_told(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert list(Path().iterdir()) == []


def test_what_it_prints_serves_its_config_and_points_agents_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents ask for models by their own names."""
    printed = run("my config.yaml").stdout
    [start] = re.findall(r"^litellm .*$", printed, re.MULTILINE)
    assert shlex.split(start) == ["litellm", "--config", "my config.yaml", "--host", HOST]
    assert max(map(len, printed.splitlines())) < 110
    key = key_in("my config.yaml")
    assert printed.count(key) == 3, "for Claude Code, Codex, and a key of one's own"
    provider = ScriptedProvider()
    answer = ScriptedAnswer([Say("Hello"), Call("Bash", '{"command": "mkfs.ext4 /dev/sda1"}')])
    provider.answers = {"claude-x": answer, "gpt-x": answer}
    with serve(provider) as url:
        environment = {
            "ANTHROPIC_API_KEY": "x",
            "ANTHROPIC_API_BASE": url,
            "OPENAI_API_KEY": "x",
            "OPENAI_BASE_URL": f"{url}/v1",
        }
        port = free_port()
        with (
            open("proxy.log", "wb") as log,
            proxy_process(Path("my config.yaml").absolute(), port, environment, log) as process,
        ):
            wait_until(lambda: is_serving(port) or process.poll() is not None, START_SECONDS)
            proxy = f"http://{HOST}:{port}"
            claude = anthropic.Anthropic(base_url=proxy, auth_token=key, api_key=None)
            message = claude.messages.create(
                model="claude-x", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
            )
            assert [block.type for block in message.content] == ["text"] * len(message.content)
            response = openai.OpenAI(base_url=f"{proxy}/v1", api_key=key).responses.create(model="gpt-x", input="hi")
            assert "[luthien] A policy blocked the call of Bash." in response.output_text
            assert httpx.get(f"{proxy}/v1/models").status_code == httpx.codes.UNAUTHORIZED
