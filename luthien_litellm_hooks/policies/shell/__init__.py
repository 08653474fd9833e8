"""Evaluator of shell scripts: finds the commands behind quoting, wrapping and nesting.

Other folders import from here alone. `parse_shell` reads a script, the other names judge its commands.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from luthien_litellm_hooks.policies.shell.dangers import find_danger, split_danger
from luthien_litellm_hooks.policies.shell.javascript import MAX_SHARED, Program, shared_programs
from luthien_litellm_hooks.policies.shell.losses import Catalogue, deletes_project, readings_of
from luthien_litellm_hooks.policies.shell.model import HERE, UNKNOWN, Command, Origins, Script, Word, program_of
from luthien_litellm_hooks.policies.shell.network import (
    UNKNOWN_HOST,
    contacts_network,
    host_of,
    hosts_of_command,
    proxies_of,
)
from luthien_litellm_hooks.policies.shell.node import runs_of_program
from luthien_litellm_hooks.policies.shell.paths import written_paths
from luthien_litellm_hooks.policies.shell.python import parsed_python
from luthien_litellm_hooks.policies.shell.reader import ShellReader
from luthien_litellm_hooks.policies.shell.syntax import MAX_BYTES
from luthien_litellm_hooks.policies.shell.values import Name, plain_values, text_of
from luthien_litellm_hooks.policies.shell.words import TooMuchError

__all__ = [
    "MAX_BYTES",
    "UNKNOWN",
    "UNKNOWN_HOST",
    "Catalogue",
    "Command",
    "Name",
    "Origins",
    "Program",
    "Script",
    "TooMuchError",
    "Word",
    "contacts_network",
    "deletes_project",
    "find_danger",
    "host_of",
    "hosts_of_command",
    "parse_shell",
    "parsed_python",
    "plain_values",
    "program_of",
    "proxies_of",
    "readings_of",
    "runs_of_program",
    "shared_readings",
    "split_danger",
    "text_of",
    "written_paths",
]

MAX_CACHED = 128
MAX_CACHED_SCRIPT = 1_000
"""Characters of the longest script in the cache."""
MAX_CACHED_WORDS = 2_000
"""Words of a cached script and the characters in them, taken together."""

_cache: dict[str, Script] = {}
_shared: ContextVar[dict[str, Script] | None] = ContextVar("shared scripts", default=None)


@contextmanager
def shared_readings() -> Generator[None]:
    """Reads each long script, and each program in JavaScript, once until the block ends."""
    token = _shared.set({})
    try:
        with shared_programs():
            yield
    finally:
        _shared.reset(token)


def parse_shell(script: str) -> Script:
    """Returns every command `script` may run, in the order of the text; never raises.

    An outer command (`sudo`, `xargs`, `bash -c`, a substitution) precedes its inner ones.

    Agents repeat themselves, and every policy of a proxy reads the same call. The process therefore caches the last
    `MAX_CACHED` short scripts. A full cache is emptied at once.
    """
    shared = _shared.get()
    known = _cache.get(script) or (shared or {}).get(script)
    if known is not None:
        return known
    parsed = ShellReader().read(script)
    if shared is not None and len(shared) < MAX_SHARED:
        shared[script] = parsed
    if len(script) <= MAX_CACHED_SCRIPT and parsed.is_understood and _size(parsed) <= MAX_CACHED_WORDS:
        if len(_cache) >= MAX_CACHED:
            _cache.clear()
        _cache[script] = parsed
    return parsed


def _size(parsed: Script) -> int:
    """Counts the words of all commands and of their inputs, with the characters in them."""
    words = [word for command in parsed.commands for word in (*command.words, command.stdin or HERE)]
    targets = [redirect.target for command in parsed.commands for redirect in command.redirects]
    feeds = sum(len(command.fed_by) + len(command.built_from) for command in parsed.commands)
    return feeds + sum(1 + len(word.text) for word in (*words, *targets))
