"""Which versions of LiteLLM are tested is told in one way everywhere; with others the start warns, or ends."""

import logging
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import litellm
import pytest
from litellm.proxy.utils import ProxyLogging
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import luthien_litellm_hooks
from luthien_litellm_hooks import ConfigError
from luthien_litellm_hooks.config.check.rules import COMPROMISED
from luthien_litellm_hooks.hooks import (
    TESTED,
    fitting_litellm,
    refuse_compromised,
    warn_if_untested,
)
from luthien_litellm_hooks.hooks.callback import RecordWriter, check_dispatch
from luthien_litellm_hooks.hooks.enforcement import Enforcement
from tests.support.proxy import ROOT

# As 1.105 is: without a class that `hooks/spend_logs.py` takes from it.
LOAD_WITH_AN_OLD_LITELLM = """
from litellm.proxy.hooks import proxy_track_cost_callback
del proxy_track_cost_callback.ProxyDBLogger
from litellm.proxy.types_utils.utils import get_instance_fn
get_instance_fn("luthien_litellm_hooks.{name}", config_file_path="config.yaml")
"""


@pytest.mark.parametrize("installed", [*TESTED, "1.106.99", "1.106.3rc1"])
def test_nothing_is_said_of_a_tested_minor_version(installed: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_untested(installed)
    assert caplog.messages == []


@pytest.mark.parametrize("installed", ["0.9.0", "1.82.9", "1.105.3", "1.107.1", "1.111.0.dev1", "2.0.0"])
def test_another_minor_version_is_warned_of(installed: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_untested(installed)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"tested with LiteLLM {', '.join(TESTED)}, and this is {installed}:" in record.message


def test_the_installed_version_is_what_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_untested()
    assert version("litellm") in (*TESTED, *re.findall(r"and this is (\S+):", caplog.text))


@pytest.mark.parametrize("name", ["luthien", "LuthienGuardrail"])
def test_litellm_ends_with_a_clear_error_where_it_lacks_what_we_import(name: str) -> None:
    program = LOAD_WITH_AN_OLD_LITELLM.format(name=name)
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    last = run.stderr.splitlines()[-1]
    assert last.startswith("luthien_litellm_hooks.errors.ConfigError: cannot import name 'ProxyDBLogger' from "), last
    assert f"do not fit: installed is LiteLLM {version('litellm')}, tested are {', '.join(TESTED)}" in last


def test_the_start_ends_with_a_clear_error_where_litellm_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ProxyLogging, "callback_capabilities")
    registered = litellm.callbacks
    with pytest.raises(ConfigError, match=r"'callback_capabilities'\. This version of LiteLLM and .* do not fit"):
        check_dispatch(RecordWriter(Enforcement()))
    assert litellm.callbacks is registered


def test_a_missing_dependency_of_another_name_is_no_matter_of_versions() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'litellm_of_another_name'"), fitting_litellm():
        __import__("litellm_of_another_name")


@pytest.fixture
def compromised(tmp_path: Path) -> str:
    """A folder whose metadata say that LiteLLM is a compromised release, for the head of `PYTHONPATH`."""
    metadata = tmp_path / "metadata" / "litellm-1.107.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.4\nName: litellm\nVersion: 1.107.0\n")
    return str(metadata.parents[1])


@pytest.mark.parametrize("name", ["luthien", "LuthienGuardrail"])
def test_neither_form_is_served_by_a_compromised_release(name: str, compromised: str) -> None:
    program = f"import luthien_litellm_hooks; luthien_litellm_hooks.{name}"
    environment = {**os.environ, "PYTHONPATH": f"{compromised}:{ROOT}"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "ConfigError: LiteLLM 1.107.0 is a compromised release" in run.stderr


@pytest.mark.parametrize("installed", sorted(COMPROMISED))
def test_each_compromised_release_is_refused(installed: str) -> None:
    with pytest.raises(ConfigError, match=rf"LiteLLM {re.escape(installed)} is a compromised release"):
        refuse_compromised(installed)


@pytest.mark.parametrize("installed", [*TESTED, "1.82.6", "1.82.9", "1.107.1", "1.107.0rc1"])
def test_its_neighbours_are_not_refused(installed: str) -> None:
    refuse_compromised(installed)


def ours() -> dict[str, SpecifierSet]:
    """The range of each dependency."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {needed.name: needed.specifier for needed in map(Requirement, lines)}


def litellm_range() -> SpecifierSet:
    return ours()["litellm"]


def litellms() -> dict[str, SpecifierSet]:
    """What LiteLLM requires in a proxy, and in its images."""
    needed: dict[str, SpecifierSet] = {}
    for line in map(Requirement, requires("litellm") or []):
        extras = ("", "proxy", "extra-proxy", "proxy-runtime")
        if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras):
            needed[line.name] = needed.get(line.name, SpecifierSet()) & line.specifier
    return needed


def bounds(ranges: SpecifierSet, *operators: str) -> list[Version]:
    return sorted(Version(specifier.version) for specifier in ranges if specifier.operator in operators)


def test_each_range_admits_what_litellm_admits() -> None:
    """Where one did not, an installation would change a version that LiteLLM was tested with."""
    shared = {name: (needed, ours()[name]) for name, needed in litellms().items() if name in ours()}
    assert {"orjson", "prisma", "pydantic", "rich", "websockets"} <= set(shared)
    for name, (needed, admitted) in shared.items():
        lowest, highest = bounds(needed, ">=", "==")[-1], bounds(needed, "<", "==")[0]
        assert admitted.contains(lowest), f"{name} {lowest} is not in {admitted}"
        assert all(highest <= end for end in bounds(admitted, "<")), f"{name} below {highest} is not in {admitted}"


def test_the_package_excludes_each_compromised_release_by_name() -> None:
    excluded = {specifier.version for specifier in litellm_range() if specifier.operator == "!="}
    assert excluded == COMPROMISED


def test_the_package_admits_what_the_matrix_runs_and_nothing_newer_or_older() -> None:
    newest = Version(TESTED[-1])
    assert bounds(litellm_range(), ">=") == [Version(TESTED[0])]
    assert bounds(litellm_range(), "<") == [Version(f"{newest.major}.{newest.minor + 1}")]
    assert all(litellm_range().contains(tested) for tested in TESTED)
    [matrix] = re.findall(r"^LITELLM +\?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tuple(matrix.split()) == TESTED


def test_the_docs_tell_the_versions() -> None:
    assert f"| LiteLLM | {', '.join(TESTED)}, " in (ROOT / "docs/deploying.md").read_text()
    assert f"Tested with LiteLLM {', '.join(TESTED[:-1])} and {TESTED[-1]}" in " ".join(
        (ROOT / "README.md").read_text().split()
    )
    security = (ROOT / "docs/security.md").read_text()
    assert all(compromised in security for compromised in COMPROMISED)


def test_the_deployments_name_this_version() -> None:
    texts = [path.read_text() for path in (ROOT / "deploy").rglob("*") if path.suffix != ".pyc" and path.is_file()]
    named = {tag for text in texts for tag in re.findall(r"(?:litellm-luthien:|tag: \")(\d[\w.]*)", text)}
    assert named == {luthien_litellm_hooks.__version__}
