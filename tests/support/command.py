"""The command `luthien-hooks`: in this process, forked, or in a process of its own.

A process of its own imports for a second, and for three where it needs LiteLLM.
"""

import os
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from luthien_litellm_hooks.cli import app
from tests.support.preloaded import parent_for

COMMAND = Path(sysconfig.get_path("scripts")) / "luthien-hooks"
_SECONDS = 120


@dataclass(frozen=True)
class Done:
    """What a command has printed, and its exit code."""

    code: int
    stdout: str
    stderr: str


def run(*arguments: str, **environment: str | None) -> Done:
    """The command in this process, with no proxy, database or records but those that are named."""
    nothing = {"DATABASE_URL": None, "LITELLM_MASTER_KEY": None, "LUTHIEN_RECORDS": "/nowhere/records.sqlite"}
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "100", **nothing, **environment})
    return Done(result.exit_code, result.stdout, result.stderr)


def run_alone(*arguments: str, **environment: str) -> Done:
    """The command as a shell runs it."""
    done = subprocess.run(
        [COMMAND, *arguments],
        env=alone(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_forked(*arguments: str, program: str = "luthien_litellm_hooks.cli:app", **environment: str) -> Done:
    """As `run_alone`, or another program, from a process that has imported LiteLLM."""
    whole = alone(**environment)
    parent = parent_for(whole, environment)
    assert parent is not None, "a variable that may be read too early"
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        code = parent.start(program, arguments, whole, output, errors).wait(_SECONDS)
        return Done(code, output.read_text(), errors.read_text())


def alone(**environment: str) -> dict[str, str]:
    """The variables of a terminal, with these and no other proxy's or database's."""
    without = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "LITELLM_MASTER_KEY")}
    return {**without, "COLUMNS": "100", **environment}
