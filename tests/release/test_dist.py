"""What is built can be installed and used: the wheel, the sdist, and the single file for hosted proxies."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Generator
from pathlib import Path
from shutil import copyfile

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from luthien_litellm_hooks import __version__
from luthien_litellm_hooks.testing.provider import serve
from tests.support.proxy import KEY, ROOT, proxy_config, running_proxy, starting_proxy

POLICY = """
import luthien_litellm_hooks

class Tells(luthien_litellm_hooks.SimplePolicy):
    async def on_response_content(self, content, request):
        return f"{content} by {luthien_litellm_hooks.__file__}"
"""


def run(*command: str | Path, folder: Path) -> str:
    """What it prints, away from the sources."""
    environment = {**os.environ, "PYTHONPATH": "", "LITELLM_MASTER_KEY": KEY}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_source(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, folder=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [wheel] = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    [sdist] = dist.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment with the wheel in it. The dependencies are those of this environment, by a
    path that does not lead to the sources."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, folder=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return python.parent


def test_the_wheel_holds_each_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    package = ROOT / "luthien_litellm_hooks"
    sources = {str(path.relative_to(ROOT)) for path in package.rglob("*") if is_source(path)}
    assert "luthien_litellm_hooks/py.typed" in sources
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == sources


def test_the_sdist_brings_what_building_testing_and_deploying_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("benchmarks", "deploy", "docs", "eval", "soak", "tests"):
        assert {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if is_source(path)} <= names
    assert {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "constraints.txt",
        ".pre-commit-config.yaml",
        "llms.txt",
    } <= names


def test_what_pip_installs_from_the_sdist_is_the_wheel(sdist: Path, wheel: Path, scripts: Path, tmp_path: Path) -> None:
    options = ("--no-deps", "--no-index", "--no-build-isolation")  # hatchling is one of the dependencies at hand
    run(scripts / "python", "-m", "pip", "wheel", *options, "-w", tmp_path, sdist, folder=tmp_path)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_installed_package_comes_from_the_wheel(scripts: Path) -> None:
    code = "import luthien_litellm_hooks as l; print(l.__file__)"
    assert run(scripts / "python", "-c", code, folder=scripts).startswith(str(scripts.parent))


def test_the_installed_command_works(scripts: Path, tmp_path: Path) -> None:
    assert run(scripts / "luthien-hooks", "--version", folder=tmp_path).strip() == __version__
    copyfile(ROOT / "litellm_config.yaml", tmp_path / "litellm_config.yaml")
    run(scripts / "luthien-hooks", "check", "litellm_config.yaml", folder=tmp_path)


@pytest.fixture(scope="module")
def bucket(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, str]]:
    """The environment of a proxy whose S3 has the single file, with a policy packed in it, at `bucket/luthien.py`."""
    folder = tmp_path_factory.mktemp("bucket")
    extra = folder / "policy.whl"
    with zipfile.ZipFile(extra, "w") as archive:
        archive.writestr("packed_policy.py", POLICY)
    built = run(sys.executable, ROOT / "deploy" / "single_file.py", wheel, extra, folder=folder)
    (folder / "luthien.py").write_text(built, encoding="ascii")

    def get(request: Request) -> FileResponse:
        return FileResponse(folder / request.path_params["key"])

    with serve(Starlette(routes=[Route("/bucket/{key}", get)])) as url:
        yield {
            "AWS_ENDPOINT_URL_S3": url,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "k",
            "AWS_DEFAULT_REGION": "us-east-1",
            "TMPDIR": str(folder),
        }


def test_a_proxy_that_loads_the_single_file_from_a_bucket_is_governed(
    bucket: dict[str, str], provider_url: str, tmp_path: Path
) -> None:
    config = proxy_config(provider_url, {"policy": {"class": "packed_policy:Tells"}, "ui": {"enabled": True}})
    config["litellm_settings"]["callbacks"] = ["s3://bucket/luthien.luthien"]
    with running_proxy(config, tmp_path / "proxy", bucket) as proxy:
        login = proxy.http.get("/luthien/ui/login")
        parts = [proxy.http.get(path) for path in re.findall(r'(?:href|src)="(/luthien/ui/static/[^"]+)"', login.text)]
        answer = proxy.openai.chat.completions.create(
            model="openai/scripted", messages=[{"role": "user", "content": "hello"}]
        )
    assert f"You said: hello by {bucket['TMPDIR']}/luthien-" in (answer.choices[0].message.content or "")
    assert [page.status_code for page in (login, *parts)] == [200, 200, 200], "the page, its style sheet and its script"


def test_a_proxy_with_the_single_file_and_a_wrong_config_does_not_start(bucket: dict[str, str], tmp_path: Path) -> None:
    config = proxy_config("http://127.0.0.1:9", {"policy": {"class": "all_cap"}})
    config["litellm_settings"]["callbacks"] = ["s3://bucket/luthien.luthien"]
    with starting_proxy(config, tmp_path / "proxy", bucket) as (process, proxy):
        assert process.wait(90) != 0
        assert "callback_settings.luthien.policy.class: unknown policy" in proxy.output
