"""What the examples in `deploy/` name is there, and the configs in them are accepted."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.hooks import TESTED
from luthien_litellm_hooks.policies.shell.python import syntax_tree
from tests.support.proxy import KEY, ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile", "Dockerfile.slim")


def kubernetes(kind: str) -> dict[str, Any]:
    [found] = [
        document
        for document in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
        if document["kind"] == kind
    ]
    return found


CONFIGS = {
    "helm": yaml.safe_dump(yaml.safe_load((DEPLOY / "helm-values.yaml").read_text())["proxy_config"]),
    "kubernetes": kubernetes("ConfigMap")["data"]["config.yaml"],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_each_config_is_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LITELLM_MASTER_KEY", "PROXY_MASTER_KEY"):  # which comes from a secret
        monkeypatch.setenv(variable, KEY)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIGS[name])
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.output


def copied(dockerfile: Path) -> Iterator[str]:
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile.read_text(), re.MULTILINE):
        yield from line.split()


def images() -> set[str]:
    """Every image that the examples and the docs name, with its tag."""
    files = [file for file in DEPLOY.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    texts = [file.read_text() for file in (*files, *(ROOT / "docs").glob("*.md"), ROOT / "README.md")]
    named = re.compile(r"\b(?:ghcr\.io/[\w/-]+|registry\.example\.com/[\w-]+|python):[\w.-]+")
    return {image for text in texts for image in named.findall(text)}


def test_no_image_is_named_by_a_tag_that_moves() -> None:
    """For hours, tags that move led to a compromised release of LiteLLM."""
    repositories = {image.partition(":")[0] for image in images()}
    assert repositories >= {"ghcr.io/berriai/litellm", "ghcr.io/astral-sh/uv", "python"}
    assert [image for image in images() if not re.search(r":v?\d+\.\d+", image)] == []


def test_the_image_is_of_a_tested_release() -> None:
    tags = {image.partition(":")[2] for image in images() if image.startswith("ghcr.io/berriai/litellm:")}
    assert {tag.removeprefix("v") for tag in tags} <= set(TESTED)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_copies_is_in_the_repository_or_built_and_is_not_ignored(name: str) -> None:
    ignored = (DEPLOY / f"{name}.dockerignore").read_text().splitlines()
    for source in copied(DEPLOY / name):
        assert source == "dist/*.whl" or (ROOT / source).is_file(), source
        assert f"!{source}" in ignored


def test_the_pins_hold_what_is_installed() -> None:
    done = subprocess.run([sys.executable, DEPLOY / "pins.py"], capture_output=True, text=True, check=True)
    assert f"litellm=={version('litellm')}" in done.stdout.splitlines()


def test_the_deployment_mounts_the_config_as_a_folder_and_serves_it() -> None:
    """A ConfigMap that is mounted with `subPath` never changes."""
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [mount] = container["volumeMounts"]
    [volume] = pod["volumes"]
    assert "subPath" not in mount
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == kubernetes("ConfigMap")["metadata"]["name"]
    assert container["args"][1] == f"{mount['mountPath']}/config.yaml"
    assert kubernetes("Service")["spec"]["selector"].items() <= pod_labels().items()


def pod_labels() -> dict[str, str]:
    return kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", ["helm-values.yaml", "kubernetes.yaml"])
def test_the_hook_that_a_deployment_names_exists(name: str) -> None:
    [(module, function)] = re.findall(r"(luthien_litellm_hooks[\w.]+):(\w+)", (DEPLOY / name).read_text())
    assert callable(getattr(import_module(module), function))


def test_the_blueprints_are_well_formed() -> None:
    [service] = yaml.safe_load((DEPLOY / "render.yaml").read_text())["services"]
    assert service["healthCheckPath"] == "/health/liveliness"
    railway = json.loads((DEPLOY / "railway" / "railway.json").read_text())
    assert (DEPLOY / "railway" / railway["build"]["dockerfilePath"]).is_file()


def test_the_single_files_source_is_python_of_plain_ascii() -> None:
    command = [sys.executable, DEPLOY / "single_file.py", ROOT / "LICENSE"]
    source = subprocess.run(command, capture_output=True, check=True).stdout.decode("ascii")
    names = [node.names[0].name for node in ast.walk(syntax_tree(source)) if isinstance(node, ast.ImportFrom)]
    assert names == ["luthien"]
