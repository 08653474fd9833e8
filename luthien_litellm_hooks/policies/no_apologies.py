"""`no_apologies`: leaves out the sentences in which a model says sorry, or how right one is."""

from luthien_litellm_hooks.parsing.growing import (
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
from luthien_litellm_hooks.policies.text_rewriting import TextRewriting
from luthien_litellm_hooks.policy.base import PolicyConfig

_REACH = 240  # characters of the longest sentence that is left out

_INTENSE = maybe(plain(" do", " sincerely", " deeply", " truly", " really"))
_I_AM = then(plain("I'm", "I\u2019m", "I am"), maybe(plain(" so", " very", " really", " truly", " terribly")))
_YOU_ARE = plain("you're", "you\u2019re", "you are", "that's", "that\u2019s", "that is")

_SORRY = either(
    then(plain("I"), _INTENSE, plain(" apologize", " apologise")),
    then(maybe(plain("my ", "my sincere ", "my sincerest ")), plain("apologies")),
    then(_I_AM, plain(" sorry")),
    then(maybe(plain("so ", "very ")), plain("sorry")),
)
# Only what the model has done itself: not "I'm sorry for your loss", nor "I'm sorry to hear that".
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

# The sentence ends, or goes on with what is worth saying, which then begins with a capital letter.
_END = then(run("[.!]", 1, 3), run("[ ]", 0, 2))
_GOES_ON = then(plain(", ", " - ", "\u2014", " \u2014 "), maybe(plain("but ", "and ", "so ")), run(r"[\p{L}]", 1, 1))


def _sentence(opening: Part) -> Part:
    return any_case(then(opening, either(_END, _GOES_ON)))


def _rest(sentence: str) -> str:
    """What stays of `sentence`: the first letter of what it goes on with, if it does."""
    return sentence[-1].upper() if sentence[-1].isalpha() else ""


class NoApologies(TextRewriting):
    """Leaves out "I apologize for the confusion." and "You're absolutely right!"; of "Sorry about
    that, the path is wrong." stays "The path is wrong." In text only, and only whole sentences that
    the model says of itself, or their first part. A refusal keeps what it refuses."""

    Config = PolicyConfig

    def __init__(self, config: PolicyConfig | None = None) -> None:
        apology = then(_SORRY, maybe(_FOR_WHAT))
        rules = [Rule("apology", _sentence(either(apology, _RIGHT)), _rest, before=EDGE)]
        super().__init__(GrowingRewriter(rules, reach=_REACH, may_begin=_begins_sentence))


def _begins_sentence(before: str) -> bool:
    stripped = before.rstrip(" ")
    return not stripped or stripped.endswith((".", "!", "?", "\n"))
