"""Imports only go down: which room of the package may import which, and who may import what from outside."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import luthien_litellm_hooks

PACKAGE = "luthien_litellm_hooks"
ROOT = Path(luthien_litellm_hooks.__file__).parent

# Top to bottom, one floor a line. A module may import its own room and every room on a lower floor,
# but no other room on its own floor. "" is the package root, the facade for users.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("commands",),
    ("testing", "doctor", "inspection"),
    ("",),
    ("hooks",),
    ("checking",),
    ("config",),
    ("policies", "executor"),
    ("llm_client", "transaction_record"),
    ("policy",),
    ("recorder",),
    ("telemetry", "egress"),
    ("deadline",),
    ("limits",),
    ("adapters", "assembler", "parsing"),
    ("events",),
    ("log_lines",),
    ("errors", "doctor_proof", "printable"),
)

# Modules that make up one room together.
SHARED_ROOMS = {
    "answering": "executor",
    "ballot": "executor",
    "composition": "executor",
    "failures": "executor",
    "guardrail_settings": "config",
    "held": "egress",
    "outbox": "egress",
    "panel": "executor",
    "policy_loading": "config",
    "policy_spec": "config",
    "request_round": "executor",
    "running_answer": "executor",
    "validation": "config",
    "way_out": "egress",
    "worker": "executor",
}

# What only these rooms may import.
RESERVED: dict[str, frozenset[str]] = {
    "litellm": frozenset({"hooks", "adapters", "llm_client", "testing"}),
    "fastapi": frozenset({"hooks", "adapters", "testing"}),
    "opentelemetry": frozenset({"telemetry"}),
    "prisma": frozenset({"inspection"}),
    "prometheus_client": frozenset({"telemetry"}),
    "re2": frozenset({"parsing"}),
    "redis": frozenset({"telemetry"}),
    "sqlglot": frozenset({"parsing"}),
    "tree_sitter": frozenset({"parsing"}),
}

# What these rooms and modules may not import.
FORBIDDEN: dict[str, frozenset[str]] = {
    "adapters.base": frozenset({"litellm", "fastapi"}),
    "adapters": frozenset({"asyncio", "time", "logging", "anyio"}),
    "assembler": frozenset({"asyncio", "time", "logging", "anyio"}),
    "events": frozenset({"asyncio", "time", "logging", "anyio"}),
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
    f"{PACKAGE}.adapters.chat",
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
        is_wrong = outer in forbidden or (allowed is not None and _room(module) not in allowed)
        return f"{module} may not import {outer}" if is_wrong else None
    above, below = _floor(_room(module)), _floor(_room(inner))
    goes_down = above is not None and below is not None and above < below
    return None if goes_down or _room(module) == _room(inner) else f"{module} may not import {inner or PACKAGE}"


def _room(module: str) -> str:
    room = module.partition(".")[0]
    return SHARED_ROOMS.get(room, room)


def _floor(room: str) -> int | None:
    return next((number for number, floor in enumerate(FLOORS) if room in floor), None)


def _imports(module: str, source: str, is_package: bool) -> Iterator[str]:
    """The full names of the modules that `source` imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
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


def test_every_room_of_the_table_exists() -> None:
    rooms = {room for floor in FLOORS for room in floor}
    assert rooms == {_room(module) for module in MODULES}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("events", "import luthien_litellm_hooks.executor", "events may not import executor"),
        ("events", "from luthien_litellm_hooks import Policy", "events may not import luthien_litellm_hooks"),
        ("policy.base", "from luthien_litellm_hooks import config", "policy.base may not import config"),
        ("policy.base", "from ..executor import PolicyExecutor", "policy.base may not import executor"),
        ("policies.noop", "from luthien_litellm_hooks.executor import X", "policies.noop may not import executor"),
        (
            "policies.noop",
            "from luthien_litellm_hooks.running_answer import X",
            "policies.noop may not import running_answer",
        ),
        ("policies.noop", "from luthien_litellm_hooks import hooks", "policies.noop may not import hooks"),
        ("executor", "from luthien_litellm_hooks.policies.noop import X", "executor may not import policies.noop"),
        ("telemetry", "from luthien_litellm_hooks.egress import Parcel", "telemetry may not import egress"),
        ("config", "from luthien_litellm_hooks.hooks.callback import X", "config may not import hooks.callback"),
        (
            "hooks.routes",
            "from luthien_litellm_hooks.testing import serving",
            "hooks.routes may not import testing.serving",
        ),
        ("testing.demo", "from luthien_litellm_hooks.cli import app", "testing.demo may not import cli"),
        ("config", "import litellm", "config may not import litellm"),
        ("cli", "import litellm.proxy", "cli may not import litellm"),
        ("executor", "from fastapi import HTTPException", "executor may not import fastapi"),
        ("adapters.base", "from litellm.types.utils import X", "adapters.base may not import litellm"),
        ("egress", "from opentelemetry import trace", "egress may not import opentelemetry"),
        ("adapters.chat", "import asyncio", "adapters.chat may not import asyncio"),
        ("adapters.chat", "def now():\n    import time", "adapters.chat may not import time"),
        ("assembler", "import logging", "assembler may not import logging"),
        ("events", "if TYPE_CHECKING:\n    from anyio.abc import X", "events may not import anyio"),
        ("novelty", "", "novelty has no room in FLOORS"),
    ],
)
def test_the_rule_sees_a_bad_import(module: str, source: str, complaint: str) -> None:
    assert complaints(module, source) == [complaint]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli", "from luthien_litellm_hooks import __version__\nfrom luthien_litellm_hooks.testing import demo"),
        ("testing.demo", "import litellm\nfrom luthien_litellm_hooks.hooks import callback"),
        ("executor", "import asyncio\nfrom luthien_litellm_hooks.running_answer import X"),
        ("policies.noop", "from luthien_litellm_hooks.policy.base import Policy"),
        ("adapters.chat", "import litellm\nfrom . import chat_parts\nfrom ..events import Chunk"),
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
    names = [f"{PACKAGE}.{module}".rstrip(".") for module in MODULES if module != "hooks.start"]  # reads the settings
    code = f"import sys; sys.modules['prisma'] = None\nfor name in {names}: __import__(name)"
    assert run_python(code) == ""
