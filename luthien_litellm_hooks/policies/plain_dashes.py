"""`plain_dashes`: replaces every dash by a hyphen, as on a plain keyboard."""

from luthien_litellm_hooks.policies.rewriting import WHOLE_PIECE, Edit, TextRewriting
from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.patterns import compile_pattern

_REACH = 8
_LONG = "\u2014\u2015"  # em dash, horizontal bar
_DASH = compile_pattern(f"[{_LONG}]{{1,{_REACH}}}|[\u2012\u2013]")  # or a figure or en dash
_LONG_AT_END = compile_pattern(rf"[{_LONG}]{{1,{_REACH}}}\z")


class PlainDashes(TextRewriting):
    """Replaces dashes in text: an em dash by a hyphen between spaces, an en dash by a hyphen alone, for ranges."""

    Config = PolicyConfig

    def __init__(self, config: PolicyConfig | None = None) -> None:
        super().__init__(_DashRewriter())


class _DashRewriter:
    reach = _REACH
    slack = WHOLE_PIECE

    def next_edit(self, text: str, start: int) -> Edit | None:
        match = None if text.isascii() else _DASH.search(text, start)
        if match is None:
            return None
        first, last = match.span()
        before, after = text[max(0, first - 1) : first], text[last : last + 1]
        is_long = text[first] in _LONG
        written = (" " if is_long and before.strip() else "") + "-" + (" " if is_long and after.strip() else "")
        return Edit(first, last, written, "dash")

    def first_open(self, text: str, start: int) -> int:
        match = _LONG_AT_END.search(text, start) if text.endswith(tuple(_LONG)) else None
        return len(text) if match is None else match.start()
