"""Whether a shell script is dangerous, and why: the catalogue behind `block_dangerous_commands`."""

from luthien_litellm_hooks.parsing.dangers_deletion import deletion_danger
from luthien_litellm_hooks.parsing.dangers_download import Downloads
from luthien_litellm_hooks.parsing.dangers_system import system_danger
from luthien_litellm_hooks.parsing.shell_model import Script


def find_danger(script: Script, *, strict: bool = False) -> str | None:
    """Why the operator should not let `script` run, in plain English; None if nothing speaks against it.

    With `strict`, every recursive deletion counts, whatever its target. A script that cannot be read counts always.
    """
    downloads = Downloads()
    for command in script.commands:
        reason = deletion_danger(command, strict=strict) or system_danger(command) or downloads.danger(command)
        if reason is not None:
            return reason
    return None if script.is_understood else "a command that cannot be read"
