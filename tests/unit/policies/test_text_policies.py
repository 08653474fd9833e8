"""Policies that rewrite text by rule: what is written, whatever the cutting, and what is left alone."""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litellm.types.utils import ModelResponseStream

from luthien_litellm_hooks import ConfigError, Policy, PolicyExecutor
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.policies.no_apologies import NoApologies
from luthien_litellm_hooks.policies.plain_dashes import PlainDashes
from luthien_litellm_hooks.policies.prefer_uv import PreferUv
from luthien_litellm_hooks.policies.regex_replacement import RegexReplacement
from luthien_litellm_hooks.policies.string_replacement import StringReplacement
from tests.support.chat import (
    Delivered,
    adapter,
    call,
    chunk,
    context,
    deliver,
    deliver_full,
    finish,
    full,
    pull,
    text,
    think,
    tool,
)

CLASSES = {
    "string_replacement": "luthien_litellm_hooks.policies.string_replacement:StringReplacement",
    "regex_replacement": "luthien_litellm_hooks.policies.regex_replacement:RegexReplacement",
}


def policy(name: str, **config: Any) -> Policy:
    return load_policy(CLASSES[name], config)


def strings(*replacements: tuple[str, str], **config: Any) -> Policy:
    return policy("string_replacement", replacements=list(replacements), **config)


def patterns(*replacements: tuple[str, str], **config: Any) -> Policy:
    return policy("regex_replacement", replacements=list(replacements), **config)


def pieces(*texts: str) -> list[ModelResponseStream]:
    return [*(text(piece) for piece in texts), finish()]


async def rewritten(policy: Policy, *texts: str) -> str:
    """What a client reads of an answer in these pieces; the same answer at once must read the same."""
    streamed = Delivered.of(await deliver(policy, pieces(*texts))).text
    response = await deliver_full(policy, full({"content": "".join(texts)}))
    assert response.choices[0].message.content == streamed
    return streamed


def spans_of(text: str, sizes: Sequence[int]) -> list[str]:
    """`text` cut into pieces of these sizes, over and over."""
    cut: list[str] = []
    while text:
        size = sizes[len(cut) % len(sizes)]
        cut.append(text[:size])
        text = text[size:]
    return cut


# String replacement

LITERALS = [("ab", "<ab>"), ("abc", "ABC"), ("bca", ""), ("c", "ab"), ("aab", "b"), ("é🙂", "e")]


def replaced(text: str) -> str:
    """The model: the longest match at each place, left to right."""
    written, place = "", 0
    while place < len(text):
        found = max(
            (pair for pair in LITERALS if text.startswith(pair[0], place)), key=lambda p: len(p[0]), default=None
        )
        written += found[1] if found else text[place]
        place += len(found[0]) if found else 1
    return written


SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@given(st.text(alphabet="abcé🙂 ", max_size=60), SIZES)
@settings(max_examples=150, deadline=None)
async def test_however_a_text_is_cut_it_reads_as_the_whole_text_replaced(given_text: str, sizes: list[int]) -> None:
    assert await rewritten(strings(*LITERALS), *spans_of(given_text, sizes)) == replaced(given_text)


@given(st.text(alphabet="abc ", min_size=1, max_size=80), SIZES)
@settings(max_examples=100, deadline=None)
async def test_never_more_is_held_than_a_match_could_need(given_text: str, sizes: list[int]) -> None:
    same_length = strings(("abca", "1234"), ("bcc", "567"), ("ab", "89"))
    assert max(await held_while_streaming(same_length, spans_of(given_text, sizes))) <= len("abca") - 1


async def held_while_streaming(policy: Policy, texts: Sequence[str]) -> list[int]:
    """How many characters have come but not left, after each piece; replacements keep lengths."""
    delivered: list[Any] = []
    held: list[int] = []

    async def provider() -> AsyncIterator[Any]:
        came = 0
        for piece in texts:
            came += len(piece)
            yield text(piece)
            for _ in range(30):  # until the client has read all there is to read
                await anyio.lowlevel.checkpoint()
            held.append(came - len(Delivered.of(delivered).text))
        yield finish()

    stream = PolicyExecutor(policy).run(provider(), adapter(), context())
    while (item := await anext(stream, None)) is not None:
        delivered.append(item)
    return held


@given(st.lists(st.text(alphabet="xyz \n", min_size=1, max_size=6), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
async def test_a_stream_in_which_no_match_begins_leaves_as_it_came(texts: list[str]) -> None:
    items = [chunk(role="assistant", content=""), think("ab"), *pieces(*texts)]
    for rewriting in (strings(*LITERALS), patterns((r"\d", ""), max_match_length=1), NoApologies(), PlainDashes()):
        assert [id(item) for item in await deliver(rewriting, items)] == [id(item) for item in items]


async def test_pieces_that_only_might_have_matched_leave_as_they_came() -> None:
    items = pieces("x a", "a", "bd", "e a")
    assert [id(item) for item in await deliver(strings(("aaaab", "!")), items)] == [id(item) for item in items]


async def test_a_long_piece_does_not_wait_for_what_may_begin_at_its_end() -> None:
    long = "all of this can leave at once, a"
    assert await held_while_streaming(strings(("abc", "123")), [long, "b", "d"]) == [1, 2, 0]


async def test_a_whole_answer_without_a_match_is_the_same_object() -> None:
    response = full({"content": "a long text that ends as a match would begin: a"})
    assert await deliver_full(strings(("abc", "")), response) is response


async def test_a_rewritten_text_is_not_searched_again() -> None:
    assert await rewritten(strings(("a", "aa"), ("aa", "b")), "a", "a", "a") == "baa"


async def test_the_end_of_a_block_lets_out_what_might_have_matched() -> None:
    items = [text("x "), text("ab"), *call(0, "f", "{}"), finish("tool_calls")]
    delivered = await deliver(strings(("abc", "!")), items)
    assert [id(item) for item in delivered] == [id(item) for item in items]


async def test_blocks_and_choices_are_searched_each_by_itself() -> None:
    items = [text("a"), text("x", choice=1), text("b"), text("b", choice=1), think("a"), text("b"), finish()]
    delivered = await deliver(strings(("ab", "!"), ("xb", "?")), [*items, finish(choice=1)])
    assert (Delivered.of(delivered).text, Delivered.of(delivered, choice=1).text) == ("!b", "?")


@pytest.mark.parametrize(
    ("came", "left"),
    [
        ("utilize UTILIZE Utilize uTiLize", "use USE Use uSe"),
        ("kitten Kitten KITTEN", "big cat Big cat BIG CAT"),
        ("hello world Hello World Hello world HELLO WORLD", "good bye Good Bye Good bye GOOD BYE"),
        ("x X", "iks Iks"),
        ("3D 3d", "solid solid"),
        ("İstanbul straße STRASSE", "İstanbul road STRASSE"),
    ],
)
async def test_the_case_of_what_was_found_is_kept(came: str, left: str) -> None:
    pairs = [
        ("utilize", "uSe"),
        ("KITTEN", "big cat"),
        ("hello world", "good bye"),
        ("x", "iks"),
        ("3d", "solid"),
        ("straße", "road"),
    ]
    assert await rewritten(strings(*pairs, match_capitalization=True), *spans_of(came, [3])) == left


async def test_tool_arguments_are_rewritten_if_asked() -> None:
    items = [*call(0, "f", '{"ab": ["a', 'b", 1.0]}'), *call(1, "g", '{"x": 1}'), finish("tool_calls")]
    delivered = await deliver(strings(("ab", 'q"')), items)
    assert [id(item) for item in delivered] == [id(item) for item in items]
    delivered = Delivered.of(await deliver(strings(("ab", 'q"'), tool_arguments=True), items))
    assert delivered.calls == [("call_0", "f", '{"ab": ["q\\"", 1.0]}'), ("call_1", "g", '{"x": 1}')]


async def test_arguments_that_are_no_json_are_rewritten_as_text() -> None:
    items = [*call(0, "f", '{"ab": "a', "b"), finish("tool_calls")]
    delivered = Delivered.of(await deliver(strings(("ab", "c"), tool_arguments=True), items))
    assert delivered.calls == [("call_0", "f", '{"c": "c')]


@pytest.mark.parametrize(
    ("apply_to", "asked", "told"), [("request", "cd", "ab"), ("response", "ab", "cd"), ("both", "cd", "cd")]
)
async def test_the_request_and_the_answer_are_rewritten_as_asked(apply_to: str, asked: str, told: str) -> None:
    ctx = context(messages=[{"role": "user", "content": "ab"}])
    executor = PolicyExecutor(strings(("ab", "cd"), apply_to=apply_to))
    await executor.on_request(ctx)
    items = pieces("a", "b")
    delivered = await pull(executor.run(provider_of(items), adapter(), ctx))
    assert ctx.final_request.messages[0]["content"] == asked
    assert Delivered.of(delivered).text == told
    assert [decision.reason for decision in ctx.decisions] == ["replaced 1 text"] * (2 if apply_to == "both" else 1)


async def provider_of(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def test_one_decision_tells_how_much_of_a_block_was_replaced() -> None:
    ctx = context()
    await deliver(strings(("ab", "c"), ("x", "x")), pieces("ab a", "b x", "ab"), ctx)
    assert [(decision.action, decision.reason) for decision in ctx.decisions] == [("modify", "replaced 3 texts")]


# Regular expressions

EXPRESSIONS = [(r"\bcat", "dog"), (r"([ab]+)-([ab]+)", r"\2+\1"), (r"a+", "(\\g<0>)"), (r"\d{2,4}", "#")]
LONGEST = 5


def substituted(text: str) -> str:
    """The model: at each place the first pattern that matches within the longest length."""
    written, place = "", 0
    while place < len(text):
        end = min(len(text), place + LONGEST)
        found = next((m.expand(t) for p, t in EXPRESSIONS if (m := re.compile(p).match(text, place, end))), None)
        match = next((m for p, _ in EXPRESSIONS if (m := re.compile(p).match(text, place, end))), None)
        written += text[place] if match is None else found or ""
        place = place + 1 if match is None else match.end()
    return written


@given(st.text(alphabet="abct-12 ", max_size=60), SIZES)
@settings(max_examples=150, deadline=None)
async def test_however_a_text_is_cut_patterns_match_as_in_the_whole_text(given_text: str, sizes: list[int]) -> None:
    policy = patterns(*EXPRESSIONS, max_match_length=LONGEST)
    assert await rewritten(policy, *spans_of(given_text, sizes)) == substituted(given_text)


@given(st.text(alphabet="ab ", min_size=1, max_size=80), SIZES)
@settings(max_examples=50, deadline=None)
async def test_what_a_pattern_holds_is_bounded(given_text: str, sizes: list[int]) -> None:
    policy = patterns(("ab", "cd"), max_match_length=LONGEST)
    assert max(await held_while_streaming(policy, spans_of(given_text, sizes))) <= LONGEST + 100


async def test_pieces_without_a_match_leave_as_they_came_a_little_later() -> None:
    items = pieces("no ", "num", "ber ", "in ", "this")
    assert [id(item) for item in await deliver(patterns((r"\d+", "#"), max_match_length=4), items)] == [
        id(item) for item in items
    ]


@pytest.mark.parametrize(
    ("came", "left"),
    [
        ("12345678", "######## "),
        ("a-b", "b-a"),
        ("foo$ foo", "foo$ bar"),
        ("line\nfoo", "line\nbar"),
    ],
)
async def test_anchors_edges_and_groups_mean_the_whole_text(came: str, left: str) -> None:
    policy = patterns((r"\d", "#"), (r"(?P<x>a)-(b)", r"\2-\g<x>"), (r"foo\z", "bar"), max_match_length=3)
    for size in (1, 2, len(came)):
        assert await rewritten(policy, *spans_of(came, [size])) == left.strip()


async def test_a_match_longer_than_declared_is_cut() -> None:
    assert await rewritten(patterns(("a+", "X"), max_match_length=3), *spans_of("aaaaaaaa b", [2])) == "XXX b"
    assert await rewritten(patterns(("a+b", "X"), max_match_length=3), *spans_of("aaaab", [2])) == "aaX"


async def test_a_long_text_takes_time_in_proportion_to_its_length() -> None:
    policy = patterns(("a.*b|a", "x"), max_match_length=50)
    assert await rewritten(policy, "a" * 10_000) == "x" * 10_000


# Settings


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("string_replacement", {}, "policy.config.replacements: missing"),
        ("string_replacement", {"replacements": []}, "policy.config.replacements: "),
        ("string_replacement", {"replacements": [["", "x"]]}, "policy.config.replacements.0.0: "),
        ("string_replacement", {"replacements": [["x"]]}, "policy.config.replacements.0.1: missing"),
        ("string_replacement", {"replacements": [["x", "y"], ["x", "z"]]}, "'x' has two replacements"),
        (
            "string_replacement",
            {"replacements": [["x", "y"], ["X", "z"]], "match_capitalization": True},
            "'X' has two replacements",
        ),
        ("string_replacement", {"replacements": [["x", "y"]], "apply_to": "all"}, "policy.config.apply_to: "),
        ("regex_replacement", {"replacements": [["a(", "y"]]}, "policy.config.replacements.0.0: "),
        ("regex_replacement", {"replacements": [["a(", "y"]]}, "missing ): a( (character 1)"),
        ("regex_replacement", {"replacements": [["a*", "y"]]}, "matches the empty text"),
        ("regex_replacement", {"replacements": [["a", r"\1"]]}, r"'\\1' in a replacement is not a group of 'a'"),
        ("regex_replacement", {"replacements": [["a", r"\g<x>"]]}, "is not a group of 'a'"),
        ("regex_replacement", {"replacements": [["a", r"\n"]]}, r"write \\ for a backslash"),
        ("regex_replacement", {"replacements": [["a", "b"]], "max_match_length": 0}, "policy.config.max_match_length"),
    ],
)
def test_wrong_settings_are_refused_with_their_key(name: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(name, **config)
    assert said in str(caught.value)


def test_policies_load_and_keep_nothing_of_a_request() -> None:
    assert isinstance(strings(("a", "b")), StringReplacement)
    assert isinstance(patterns(("a", "b")), RegexReplacement)
    for cls in (PlainDashes, NoApologies, PreferUv):
        assert isinstance(load_policy(f"{cls.__module__}:{cls.__name__}", {}), cls)


# Presets


@pytest.mark.parametrize(
    ("came", "left"),
    [
        ("It works \u2014 mostly.", "It works - mostly."),
        ("It works\u2014mostly.", "It works - mostly."),
        ("pages 10\u201320, Rome\u2013Paris", "pages 10-20, Rome-Paris"),
        ("one \u2013 two", "one - two"),
        ("List:\n\u2014 first\n\u2014second", "List:\n- first\n- second"),
        ("a-b --flag", "a-b --flag"),
    ],
)
async def test_dashes_become_plain(came: str, left: str) -> None:
    for size in (1, 3, len(came)):
        assert await rewritten(PlainDashes(), *spans_of(came, [size])) == left


@pytest.mark.parametrize(
    ("came", "left"),
    [
        ("I apologize for the confusion. The path is wrong.", "The path is wrong."),
        ("You're absolutely right! I missed it.", "I missed it."),
        ("You\u2019re absolutely right \u2014 the test fails.", "The test fails."),
        ("Sorry about that. My apologies for the mix-up! Done.", "Done."),
        ("Sorry about that, the path is wrong.", "The path is wrong."),
        ("Done. I'm so sorry for the delay.\nNext.", "Done. \nNext."),
        ("I'm sorry, but I can't help with that.", "I can't help with that."),
        ("I'm sorry for your loss.", "I'm sorry for your loss."),
        ("I'm sorry to hear that.", "I'm sorry to hear that."),
        ("I think you're absolutely right.", "I think you're absolutely right."),
        ("You're absolutely right that it fails.", "You're absolutely right that it fails."),
        ('print("Sorry about that.")', 'print("Sorry about that.")'),
        ("The sorry state of it.", "The sorry state of it."),
    ],
)
async def test_apologies_are_left_out_and_nothing_else(came: str, left: str) -> None:
    for size in (1, 4, len(came)):
        assert await rewritten(NoApologies(), *spans_of(came, [size])) == left


@pytest.mark.parametrize(
    ("came", "left"),
    [
        ("Run `pip install x`.", "Run `uv pip install x`."),
        ("python3 -m pip install -r r.txt && python -m venv .venv", "uv pip install -r r.txt && uv venv .venv"),
        ("pip3 freeze > r.txt; pip uninstall -y x", "uv pip freeze > r.txt; uv pip uninstall -y x"),
        ("uv pip install x", "uv pip install x"),
        (".venv/bin/pip install x", ".venv/bin/pip install x"),
        (".venv/bin/python -m pip install x", ".venv/bin/python -m pip install x"),
        ("pipx install x", "pipx install x"),
        ("pip is old; python -m venvs", "pip is old; python -m venvs"),
    ],
)
async def test_uv_is_written_for_pip(came: str, left: str) -> None:
    for size in (1, 4, len(came)):
        assert await rewritten(PreferUv(), *spans_of(came, [size])) == left


async def test_uv_is_run_for_pip() -> None:
    response = full({"tool_calls": [tool(0, "c", "Bash", '{"command": "cd x && pip install y"}')]}, "tool_calls")
    [made] = (await deliver_full(PreferUv(), response)).choices[0].message.tool_calls
    assert made.function.arguments == '{"command": "cd x && uv pip install y"}'
