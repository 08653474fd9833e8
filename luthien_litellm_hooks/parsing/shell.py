"""Which commands a shell script may run, seen through quoting, wrapping and nesting."""

from luthien_litellm_hooks.parsing.shell_model import Command, Redirect, Script, Word
from luthien_litellm_hooks.parsing.shell_reader import ShellReader

__all__ = ["Command", "Redirect", "Script", "Word", "parse_shell"]


def parse_shell(script: str) -> Script:
    """Every command that `script` may run, in the order of the text; never raises.

    What runs another command (`sudo`, `xargs`, `bash -c`, a substitution) is followed by it.
    """
    return ShellReader().read(script)
