"""Which versions of LiteLLM are tested is told in one way everywhere, and with others the start warns."""

import logging
import re
import tomllib
from importlib.metadata import version

import pytest

import luthien_litellm_hooks
from luthien_litellm_hooks.hooks.versions import TESTED, warn_if_untested
from tests.support.proxy import ROOT


@pytest.mark.parametrize("installed", [*TESTED, "1.106.99", "1.106.3rc1"])
def test_nothing_is_said_of_a_tested_minor_version(installed: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_untested(installed)
    assert caplog.messages == []


@pytest.mark.parametrize("installed", ["0.9.0", "1.82.9", "1.105.3", "1.107.0rc1", "1.110.0.dev1", "2.0.0"])
def test_another_minor_version_is_warned_of(installed: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_untested(installed)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"tested with LiteLLM {', '.join(TESTED)}, and this is {installed}:" in record.message


def test_the_installed_version_is_what_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_untested()
    assert version("litellm") in (*TESTED, *re.findall(r"and this is (\S+):", caplog.text))


def test_the_package_and_the_matrix_agree() -> None:
    [needed] = [
        line
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if line.startswith("litellm")
    ]
    assert f">={TESTED[0]}," in needed
    [matrix] = re.findall(r"^LITELLM +\?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tuple(matrix.split()) == TESTED


def test_the_docs_tell_the_versions() -> None:
    assert f"| LiteLLM | {', '.join(TESTED)}, " in (ROOT / "docs/deploying.md").read_text()


def test_the_deployments_name_this_version() -> None:
    texts = [path.read_text() for path in (ROOT / "deploy").rglob("*") if path.suffix != ".pyc" and path.is_file()]
    named = {tag for text in texts for tag in re.findall(r"(?:litellm-luthien:|tag: \")(\d[\w.]*)", text)}
    assert named == {luthien_litellm_hooks.__version__}
