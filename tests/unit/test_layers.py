"""Imports only go down: which room of the package may import which, and who may import what from outside."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import luthien_litellm_hooks
from luthien_litellm_hooks.policies.shell.python import syntax_tree

PACKAGE = "luthien_litellm_hooks"
ROOT = Path(luthien_litellm_hooks.__file__).parent

# Top to bottom, one floor a line. A module may import its own folder and every folder on a lower floor,
# but no other folder on its own floor. "" is the package root, the facade for users.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("testing",),
    ("hooks", ""),
    ("config", "monitor"),
    ("engine", "policies"),
    ("policy",),
    ("recording",),
    ("telemetry",),
    ("wire",),
    ("errors",),
)

MAX_ROOMS = 12

# What only these rooms may import.
RESERVED: dict[str, frozenset[str]] = {
    "litellm": frozenset({"hooks", "wire", "policy.llm_client", "recording.sealing", "testing"}),
    "fastapi": frozenset({"hooks", "wire", "testing"}),
    "opentelemetry": frozenset({"telemetry"}),
    "prisma": frozenset({"monitor.spend_logs"}),
    "prometheus_client": frozenset({"telemetry"}),
    "re2": frozenset({"policy.patterns"}),
    "redis": frozenset({"telemetry"}),
    "sqlglot": frozenset({"policies"}),
    "tree_sitter": frozenset({"policies"}),
}

# What these rooms and modules may not import.
FORBIDDEN: dict[str, frozenset[str]] = {
    "wire.format": frozenset({"litellm", "fastapi"}),
    "wire": frozenset({"asyncio", "time", "logging", "anyio"}),
}

# What importing the package root must not bring along.
HEAVY = (
    "litellm",
    "fastapi",
    "opentelemetry",
    "redis",
    "yaml",
    f"{PACKAGE}.config",
    f"{PACKAGE}.hooks",
    f"{PACKAGE}.wire.chat",
)

# The facade may import from any room, and so has no floor to keep to.
EXEMPT = frozenset({""})


def modules() -> dict[str, Path]:
    """Every module of the package, named as seen from its root."""
    return {_name(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


def _name(path: Path) -> str:
    parts = path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts
    return ".".join(parts)


MODULES = modules()


def complaints(module: str, source: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of `module`."""
    if module in EXEMPT:
        return []
    if _floor(_room(module)) is None:
        return [f"{module} has no room in FLOORS"]
    return [
        complaint
        for imported in _imports(module, source, is_package)
        if (complaint := _complaint(module, imported)) is not None
    ]


def _complaint(module: str, imported: str) -> str | None:
    outer, _, inner = imported.partition(".")
    if outer != PACKAGE:
        allowed = RESERVED.get(outer)
        forbidden = FORBIDDEN.get(module, frozenset()) | FORBIDDEN.get(_room(module), frozenset())
        is_wrong = outer in forbidden or (allowed is not None and not {module, _room(module)} & allowed)
        return f"{module} may not import {outer}" if is_wrong else None
    above, below = _floor(_room(module)), _floor(_room(inner))
    goes_down = above is not None and below is not None and above < below
    return None if goes_down or _room(module) == _room(inner) else f"{module} may not import {inner or PACKAGE}"


def _room(module: str) -> str:
    return module.partition(".")[0]


def _floor(room: str) -> int | None:
    return next((number for number, floor in enumerate(FLOORS) if room in floor), None)


def _imports(module: str, source: str, is_package: bool) -> Iterator[str]:
    """The full names of the modules that `source` imports, wherever in it."""
    for node in ast.walk(syntax_tree(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node, is_package)
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                yield submodule if submodule.removeprefix(f"{PACKAGE}.") in MODULES else origin


def _origin(module: str, node: ast.ImportFrom, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *module.split(".")]
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize("module", [name for name in MODULES if name not in EXEMPT])
def test_imports_only_go_down(module: str) -> None:
    path = MODULES[module]
    assert complaints(module, path.read_text(encoding="utf-8"), path.name == "__init__.py") == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        module: {
            inner
            for imported in _imports(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
            if (inner := imported.removeprefix(f"{PACKAGE}.")) in MODULES and inner not in EXEMPT
        }
        for module, path in MODULES.items()
        if module not in EXEMPT
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_room_of_the_table_exists() -> None:
    rooms = {room for floor in FLOORS for room in floor}
    assert rooms == {_room(module) for module in MODULES}


def test_the_root_shows_the_rooms_and_the_docs_list_them_floor_by_floor() -> None:
    names = {path.stem for path in ROOT.iterdir() if path.suffix in ("", ".py") and not path.name.startswith("__")}
    assert names == {room for floor in FLOORS for room in floor} - {""}
    assert len(names) <= MAX_ROOMS
    text = (ROOT.parent / "docs/how-it-works.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+)(?:/|\.py) ", text, re.MULTILINE)
    floors = [_floor(name) for name in listed]
    assert {*listed} == names
    assert floors == sorted(floors, key=lambda floor: -1 if floor is None else floor)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("wire.events", "import luthien_litellm_hooks.engine.stage", "wire.events may not import engine.stage"),
        (
            "wire.events",
            "from luthien_litellm_hooks import Policy",
            "wire.events may not import luthien_litellm_hooks",
        ),
        ("policy.base", "from luthien_litellm_hooks import config", "policy.base may not import config"),
        ("policy.base", "from ..engine.stage import PolicyStage", "policy.base may not import engine.stage"),
        (
            "policies.noop",
            "from luthien_litellm_hooks.engine.stage import X",
            "policies.noop may not import engine.stage",
        ),
        ("policies.noop", "from luthien_litellm_hooks import hooks", "policies.noop may not import hooks"),
        (
            "engine.executor",
            "from luthien_litellm_hooks.policies.noop import X",
            "engine.executor may not import policies.noop",
        ),
        ("wire.sse", "from luthien_litellm_hooks.telemetry import names", "wire.sse may not import telemetry.names"),
        (
            "config.settings",
            "from luthien_litellm_hooks.hooks.callback import X",
            "config.settings may not import hooks.callback",
        ),
        (
            "hooks.routes",
            "from luthien_litellm_hooks.testing import provider",
            "hooks.routes may not import testing.provider",
        ),
        ("testing.run", "from luthien_litellm_hooks.cli import app", "testing.run may not import cli.app"),
        ("config.settings", "import litellm", "config.settings may not import litellm"),
        ("cli.app", "import litellm.proxy", "cli.app may not import litellm"),
        ("policy.base", "import litellm", "policy.base may not import litellm"),
        ("engine.executor", "from fastapi import HTTPException", "engine.executor may not import fastapi"),
        ("wire.format", "from litellm.types.utils import X", "wire.format may not import litellm"),
        ("engine.executor", "from opentelemetry import trace", "engine.executor may not import opentelemetry"),
        ("wire.chat.adapter", "import asyncio", "wire.chat.adapter may not import asyncio"),
        ("wire.chat.adapter", "def now():\n    import time", "wire.chat.adapter may not import time"),
        ("wire.assembler", "import logging", "wire.assembler may not import logging"),
        ("wire.events", "if TYPE_CHECKING:\n    from anyio.abc import X", "wire.events may not import anyio"),
        ("novelty", "", "novelty has no room in FLOORS"),
    ],
)
def test_the_rule_sees_a_bad_import(module: str, source: str, complaint: str) -> None:
    assert complaints(module, source) == [complaint]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli.app", "from luthien_litellm_hooks import __version__\nfrom luthien_litellm_hooks.testing import run"),
        ("testing.run", "import litellm\nfrom luthien_litellm_hooks.hooks import callback"),
        ("engine.executor", "import asyncio\nfrom luthien_litellm_hooks.engine.stage import X"),
        ("policies.noop", "from luthien_litellm_hooks.policy.base import Policy"),
        ("policy.llm_client", "import litellm"),
        ("wire.chat.adapter", "import litellm\nfrom . import parts\nfrom ..events import Chunk"),
        ("telemetry", "from opentelemetry import trace"),
    ],
)
def test_the_rule_lets_a_good_import_be(module: str, source: str) -> None:
    assert complaints(module, source) == []


def run_python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("statement", ["import luthien_litellm_hooks", "from luthien_litellm_hooks import *"])
def test_importing_the_package_has_no_side_effect(statement: str, tmp_path: Path) -> None:
    code = f"{statement}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(code, LUTHIEN_POLICY_CONFIG=str(tmp_path / "missing.yaml")) == "[]"


def test_every_module_can_be_imported_without_prisma() -> None:
    names = [f"{PACKAGE}.{module}".rstrip(".") for module in MODULES if module != "hooks.startup"]  # reads the settings
    code = f"import sys; sys.modules['prisma'] = None\nfor name in {names}: __import__(name)"
    assert run_python(code) == ""
