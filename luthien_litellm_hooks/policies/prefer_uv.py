"""`prefer_uv`: writes uv's commands for pip's and venv's, in what the model says and in what it runs."""

from luthien_litellm_hooks.parsing.growing import EDGE, GrowingRewriter, Rule, maybe, plain, run, then
from luthien_litellm_hooks.policies.text_rewriting import TextRewriting
from luthien_litellm_hooks.policy.base import PolicyConfig

_REACH = 80

_SPACES = run("[ ]", 1, 3)
_PYTHON = then(plain("python", "python3"), _SPACES, plain("-m"), _SPACES)
_COMMANDS = plain("install", "uninstall", "freeze", "list", "show", "check")


class PreferUv(TextRewriting):
    """Writes `uv pip install` for `pip install` and `python -m pip install` (likewise uninstall,
    freeze, list, show and check), and `uv venv` for `python -m venv`. A pip that is named by its path
    stays, because it installs where it lies; so does one that uv runs already."""

    Config = PolicyConfig

    def __init__(self, config: PolicyConfig | None = None) -> None:
        pip = then(maybe(_PYTHON), plain("pip", "pip3"))
        rules = [
            Rule("command", pip, lambda _: "uv pip", before=EDGE, after=then(_SPACES, _COMMANDS, EDGE)),
            Rule("command", then(_PYTHON, plain("venv")), lambda _: "uv venv", before=EDGE, after=EDGE),
        ]
        super().__init__(GrowingRewriter(rules, reach=_REACH, may_begin=_begins_command), tool_arguments=True)


def _begins_command(before: str) -> bool:
    last_word = before.rstrip(" ").rpartition(" ")[2]
    if before.endswith(" ") or not before:
        return last_word not in ("uv", "-m")
    return not (before[-1].isalnum() or before[-1] in "_-./\\")
