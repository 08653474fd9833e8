"""Which commands a shell script may run, seen through quoting, wrapping and nesting."""

from luthien_litellm_hooks.parsing.shell_model import HERE, Command, Redirect, Script, Word
from luthien_litellm_hooks.parsing.shell_reader import ShellReader

__all__ = ["Command", "Redirect", "Script", "Word", "parse_shell"]

MAX_KEPT = 128
MAX_KEPT_SCRIPT = 1_000
"""Characters of a script that is kept."""
MAX_KEPT_WORDS = 2_000
"""What is kept of one script has no more words and characters in them, taken together."""

_kept: dict[str, Script] = {}


def parse_shell(script: str) -> Script:
    """Every command that `script` may run, in the order of the text; never raises.

    What runs another command (`sudo`, `xargs`, `bash -c`, a substitution) is followed by it.

    Agents repeat themselves, and every policy of a proxy reads the same call. So the last short scripts
    and what they run stay in the memory of this process, at most `MAX_KEPT`; of a full house all go at once.
    """
    known = _kept.get(script)
    if known is not None:
        return known
    parsed = ShellReader().read(script)
    if len(script) <= MAX_KEPT_SCRIPT and parsed.is_understood and _size(parsed) <= MAX_KEPT_WORDS:
        if len(_kept) >= MAX_KEPT:
            _kept.clear()
        _kept[script] = parsed
    return parsed


def _size(parsed: Script) -> int:
    """How many words the commands have and are fed with, and the characters in them."""
    words = [word for command in parsed.commands for word in (*command.words, command.stdin or HERE)]
    targets = [redirect.target for command in parsed.commands for redirect in command.redirects]
    feeds = sum(len(command.fed_by) + len(command.built_from) for command in parsed.commands)
    return feeds + sum(1 + len(word.text) for word in (*words, *targets))
