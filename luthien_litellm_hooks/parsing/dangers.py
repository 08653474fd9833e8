"""Whether a shell script is dangerous, and why: the catalogue behind `block_dangerous_commands`."""

from luthien_litellm_hooks.parsing.dangers_deletion import deletion_danger
from luthien_litellm_hooks.parsing.dangers_download import Downloads
from luthien_litellm_hooks.parsing.dangers_system import system_danger
from luthien_litellm_hooks.parsing.shell import parse_shell


def find_danger(script: str, *, strict: bool = False) -> str | None:
    """Why the operator should not let `script` run, in plain English; None if nothing speaks against it.

    With `strict`, every recursive deletion counts, whatever its target. A script that cannot be read counts always.
    """
    parsed = parse_shell(script)
    downloads = Downloads()
    for command in parsed.commands:
        reason = deletion_danger(command, strict=strict) or system_danger(command) or downloads.danger(command)
        if reason is not None:
            return reason
    return None if parsed.is_understood else "a command that cannot be read"
