"""`prefer_uv`: replaces commands of pip and venv by uv's, in text and in tool calls."""

from luthien_litellm_hooks.policies.rewriting import TextRewriting
from luthien_litellm_hooks.policies.rewriting.partial_match import EDGE, GrowingRewriter, Rule, maybe, plain, run, then
from luthien_litellm_hooks.policy.base import PolicyConfig

_REACH = 80

_SPACES = run("[ ]", 1, 3)
_PYTHON = then(plain("python", "python3"), _SPACES, plain("-m"), _SPACES)
_COMMANDS = plain("install", "uninstall", "freeze", "list", "show", "check")


class PreferUv(TextRewriting):
    """Writes `uv pip install` for `pip install` and `python -m pip install`, and `uv venv` for `python -m venv`.

    Likewise uninstall, freeze, list, show and check. A pip with a path stays, because it installs beside itself. A pip
    already run by uv stays, too.
    """

    Config = PolicyConfig

    def __init__(self, config: PolicyConfig | None = None) -> None:
        pip = then(maybe(_PYTHON), plain("pip", "pip3"))
        venv = then(_PYTHON, plain("venv"))
        rules = [
            Rule("command", pip, lambda _: "uv pip", EDGE, then(_SPACES, _COMMANDS, EDGE), _begins_command),
            Rule("command", venv, lambda _: "uv venv", EDGE, EDGE, _begins_command),
        ]
        super().__init__(GrowingRewriter(rules, reach=_REACH), tool_arguments=True)


def _begins_command(before: str) -> bool:
    last_word = before.rstrip(" ").rpartition(" ")[2]
    if before.endswith(" ") or not before:
        return last_word not in ("uv", "-m")
    return not (before[-1].isalnum() or before[-1] in "_-./\\")
