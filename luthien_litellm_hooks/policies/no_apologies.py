"""`no_apologies`: removes apologies, and praise for being right."""

from luthien_litellm_hooks.policies.rewriting import TextRewriting
from luthien_litellm_hooks.policies.rewriting.partial_match import (
    EDGE,
    GrowingRewriter,
    Part,
    Rule,
    any_case,
    either,
    maybe,
    plain,
    run,
    then,
)
from luthien_litellm_hooks.policy.base import PolicyConfig

_REACH = 240  # characters of the longest removed sentence

_INTENSE = maybe(plain(" do", " sincerely", " deeply", " truly", " really"))
_I_AM = then(plain("I'm", "I\u2019m", "I am"), maybe(plain(" so", " very", " really", " truly", " terribly")))
_YOU_ARE = plain("you're", "you\u2019re", "you are", "that's", "that\u2019s", "that is")

_SORRY = either(
    then(plain("I"), _INTENSE, plain(" apologize", " apologise")),
    then(maybe(plain("my ", "my sincere ", "my sincerest ")), plain("apologies")),
    then(_I_AM, plain(" sorry")),
    then(maybe(plain("so ", "very ")), plain("sorry")),
)
# Only for the model's own doings: not "I'm sorry for your loss", nor "I'm sorry to hear that".
_FOR_WHAT = then(
    plain(" for ", " about "),
    plain("that", "this", "the", "any", "all", "my", "not", "being", "having", "missing", "making"),
    run(r"[^.!?,;:\n\x{2013}\x{2014}]", 0, 120),
)
_RIGHT = then(
    _YOU_ARE,
    plain(" absolutely", " completely", " totally", " entirely", " quite", " 100%"),
    plain(" right", " correct"),
)

# The sentence ends, or continues with content, whose first letter becomes a capital.
_END = then(run("[.!]", 1, 3), run("[ ]", 0, 2))
_GOES_ON = then(plain(", ", " - ", "\u2014", " \u2014 "), maybe(plain("but ", "and ", "so ")), run(r"[\p{L}]", 1, 1))


def _sentence(opening: Part) -> Part:
    return any_case(then(opening, either(_END, _GOES_ON)))


def _rest(sentence: str) -> str:
    """Returns the rest of `sentence`: the first letter of its continuation, "" without one."""
    return sentence[-1].upper() if sentence[-1].isalpha() else ""


class NoApologies(TextRewriting):
    """Removes "I apologize for the confusion." and "You're absolutely right!" from text.

    "Sorry about that, the path is wrong." becomes "The path is wrong." It removes only whole sentences about the model
    itself, or their first part. A refusal keeps its content.
    """

    Config = PolicyConfig

    def __init__(self, config: PolicyConfig | None = None) -> None:
        apology = then(_SORRY, maybe(_FOR_WHAT))
        rule = Rule("apology", _sentence(either(apology, _RIGHT)), _rest, EDGE, may_follow=_begins_sentence)
        super().__init__(GrowingRewriter([rule], reach=_REACH))


def _begins_sentence(before: str) -> bool:
    stripped = before.rstrip(" ")
    return not stripped or stripped.endswith((".", "!", "?", "\n"))
