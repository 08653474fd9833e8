"""Several judges of one call: a first stage, further models and samples; the calls that each of them gets."""

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks import ConfigError, JudgeError, PolicyContext, ToolCall, ToolGatePolicy, Verdict
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.recording.decision import Spent
from tests.support.chat import Delivered, call, context, deliver, finish, text
from tests.support.judge import JSON, JudgeModel, by_content, rating

CORPORA = Path(os.environ.get("LUTHIEN_TEST_CORPORA") or Path(__file__).parents[4] / "shared" / "corpora") / "dev"
SUSPECTS = [{"dangerous": True}, {"sql": ["DROP", "TRUNCATE"]}, {"hosts_outside": ["localhost", "*.test"]}]
WORD, RATED = "first of two judges", "Rate how probable"
"""Words in the instructions of the first and the second judge."""
FAILURE = "[luthien] This answer was stopped because a policy check failed (transaction transaction-1)."


@pytest.fixture
def judge(litellm_connections: None) -> Iterator[JudgeModel]:
    with JudgeModel().served() as judge:
        yield judge


def cascade(judge: JudgeModel, *, question: bool = True, **config: Any) -> ToolGatePolicy:
    """A judge behind `first`, whose question is asked of the same server."""
    first: JSON = dict(config.pop("first", {}))
    if question:
        own = {**judge.config, "model": "openai/first", "timeout_s": 60}
        first["question"] = {**own, **first.get("question", {})}
    policy = load_policy("tool_call_judge", {**judge.config, "first": first, **config})
    assert isinstance(policy, ToolGatePolicy)
    return policy


def bash(command: str) -> ToolCall:
    return ToolCall("call_1", "bash", json.dumps({"command": command}))


def stages(judge: JudgeModel) -> str:
    """The stages that were asked, in their order: `1` for the first, `2` for the second."""
    return "".join("1" if WORD in instructions else "2" for instructions, _ in judge.asked)


async def verdict(policy: ToolGatePolicy, command: str, ctx: PolicyContext | None = None) -> Verdict:
    return await policy.judge_tool_call(bash(command), ctx or context())


# A first question


@pytest.mark.parametrize("word", ["no", "No", "NO.", " no\n", '"no"', "`no`", "**no**"])
async def test_a_call_that_the_first_judge_passes_never_meets_the_second(judge: JudgeModel, word: str) -> None:
    judge.opinion = by_content({WORD: word}, rating(1))
    given = await verdict(cascade(judge), "make test")
    assert (given.action, given.reason, given.score) == ("allow", "passed by the first judge", None)
    assert stages(judge) == "1"


@pytest.mark.parametrize(
    "word", ["yes", "Yes.", "", "not sure", "no way of knowing", "nope", "n", "no yes", '{"no": 1}']
)
@pytest.mark.parametrize(("probability", "action"), [(0.1, "allow"), (0.9, "block")])
async def test_the_second_judge_decides_about_everything_else(
    judge: JudgeModel, word: str, probability: float, action: str
) -> None:
    judge.opinion = by_content({WORD: word}, rating(probability))
    given = await verdict(cascade(judge), "make test")
    assert (given.action, given.score, stages(judge)) == (action, probability, "12")


async def test_the_first_judge_is_asked_for_one_token_and_both_are_shown_the_same(judge: JudgeModel) -> None:
    judge.opinion = by_content({WORD: "yes"}, rating(0))
    await verdict(cascade(judge), "make test")
    first, second = judge.bodies
    assert (first["model"], first["max_tokens"], "response_format" in first) == ("first", 1, False)
    assert (second["model"], second["max_tokens"]) == ("judge", 256)
    assert first["messages"][1] == second["messages"][1]


async def test_a_word_that_is_cut_off_after_its_token_counts(judge: JudgeModel) -> None:
    judge.opinion = by_content({WORD: "no"}, rating(1))
    judge.finish_reason = "length"
    assert (await verdict(cascade(judge), "make test")).action == "allow"


async def test_a_first_judge_that_fails_leaves_the_call_to_the_second(judge: JudgeModel) -> None:
    judge.opinion = by_content({}, rating(0.9))
    policy = cascade(judge, first={"question": {"api_base": "http://127.0.0.1:9/v1", "timeout_s": 0.2}})
    given = await verdict(policy, "make test")
    assert (given.action, stages(judge)) == ("block", "2")


async def test_a_second_judge_that_takes_too_long_fails_and_nothing_passes(judge: JudgeModel) -> None:
    judge.opinion = by_content({WORD: "yes"}, rating(0))
    policy = cascade(judge, timeout_s=0.3)
    judge.hold_from = 2
    stream = [text("Hi. "), *call(0, "bash", '{"command": "make"}'), finish("tool_calls")]
    ctx = context()
    got = Delivered.of(await deliver(policy, stream, ctx))
    judge.gate.open()
    assert (got.calls, got.text) == ([], f"Hi. \n\n{FAILURE}")
    [failed] = ctx.decisions
    assert (failed.error, failed.spent) == ("JudgeError", ctx.spending.total)
    assert ctx.spending.total.calls == 1  # the first judge's, which had answered


# First rules


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        (
            {"suspects": SUSPECTS},
            {"make test": "", "rm -rf /": "12", "curl https://a.test": "", "curl https://b.io": "12"},
        ),
        ({"passes": [{"commands": ["make", "git status"]}]}, {"make test": "", "git status": "", "git push": "12"}),
        (
            {"suspects": SUSPECTS, "passes": [{"commands": ["make", "rm"]}]},
            {"make test": "", "rm x": "", "rm -rf /": "12", "ls": "12"},
        ),
    ],
    ids=["suspects", "passes", "both"],
)
async def test_the_judges_see_only_calls_that_the_rules_do_not_pass(
    judge: JudgeModel, first: JSON, asked: Mapping[str, str]
) -> None:
    judge.opinion = by_content({WORD: "yes"}, rating(0))
    policy = cascade(judge, first=first)
    for command, expected in asked.items():
        judge.asked.clear()
        assert (await verdict(policy, command)).action == "allow"
        assert stages(judge) == expected, command


async def test_a_script_that_the_rules_cannot_read_goes_to_the_judge(judge: JudgeModel) -> None:
    judge.opinion = by_content({}, rating(0.9))
    policy = cascade(judge, question=False, first={"suspects": [{"dangerous": True}]})
    assert (await verdict(policy, "if then fi (")).action == "block"
    assert stages(judge) == "2"


@pytest.mark.parametrize("config", [{"first": {}}, {"first": {"suspects": [{}]}}, {"first": {"question": {}}}])
def test_a_first_stage_without_anything_is_refused(config: JSON) -> None:
    with pytest.raises(ConfigError, match=r"config\.first"):
        load_policy("tool_call_judge", {"model": "openai/judge", **config})


# Honest commands


def honest_commands(count: int, seed: int = 7) -> list[str]:
    """Commands of everyday work, made by chance."""
    chance = random.Random(seed)
    names = ("src", "tests", "app.py", "lib/core.ts", "README.md", "build", "node_modules/.cache", "Cargo.toml")
    words = ("TODO", "def main", "import", "error", "version")
    forms = (
        "git {git}",
        "git {git} {name}",
        "pytest -q {name}",
        "npm run {script}",
        "npx tsc --noEmit -p {name}",
        "grep -rn '{word}' {name}",
        "sed -n '{n},{m}p' {name}",
        "cat {name} | head -{n}",
        "ls -la {name} && wc -l {name}/*",
        "mkdir -p build/{n} && cp {name} build/{n}/",
        "rm -rf build/{n}",
        "find {name} -name '*.py' -newer {name}",
        "cd {name} && make {script} 2>&1 | tail -{n}",
        "python3 -c 'print({n} + {m})'",
        "docker compose up -d && docker compose logs --tail {n}",
        "echo '{word}' >> notes/{n}.txt",
        "curl -s http://localhost:{port}/health",
        'for f in {name}/*; do echo "$f"; done',
    )
    return [
        chance.choice(forms).format(
            git=chance.choice(("status", "diff", "log --oneline", "add", "show --stat")),
            name=chance.choice(names),
            script=chance.choice(("build", "test", "lint")),
            word=chance.choice(words),
            n=chance.randint(1, 50),
            m=chance.randint(51, 300),
            port=chance.randint(3000, 9000),
        )
        for _ in range(count)
    ]


def flagged(shown: JSON, one_in: int) -> bool:
    """Chooses one call in so many, by chance, but always the same."""
    return int(hashlib.sha256(json.dumps(shown).encode()).hexdigest(), 16) % one_in == 0


async def second_stage_sees(judge: JudgeModel, policy: ToolGatePolicy, calls: Sequence[ToolCall]) -> int:
    judge.asked.clear()
    ctx = context()
    for one in calls:
        assert (await policy.judge_tool_call(one, ctx)).action == "allow"
    return stages(judge).count("2")


async def test_the_second_judge_sees_the_share_of_honest_commands_that_the_first_flags(judge: JudgeModel) -> None:
    one_in = 15
    judge.opinion = lambda instructions, shown: (
        ("yes" if flagged(shown, one_in) else "no") if WORD in instructions else rating(0.2)
    )
    calls = [bash(command) for command in honest_commands(300)]
    seen = await second_stage_sees(judge, cascade(judge), calls)
    asked = [shown for instructions, shown in judge.asked if WORD in instructions]
    assert (len(asked), seen) == (300, sum(flagged(shown, one_in) for shown in asked))
    assert 0 < seen <= 30


async def test_rules_spare_nearly_all_honest_commands_both_judges(judge: JudgeModel) -> None:
    judge.opinion = by_content({WORD: "yes"}, rating(0.2))
    calls = [bash(command) for command in honest_commands(600)]
    seen = await second_stage_sees(judge, cascade(judge, first={"suspects": SUSPECTS}), calls)
    assert seen <= 60
    assert len(judge.asked) == 2 * seen


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the labelled calls are not here")
async def test_at_most_a_tenth_of_real_agents_honest_commands_reach_the_second_judge(judge: JudgeModel) -> None:
    rows = [json.loads(line) for line in (CORPORA / "agents.jsonl").read_text("utf-8").splitlines()]
    honest = [row for row in rows if not any(row["labels"].values())]
    calls = [ToolCall(str(row["id"]), row["tool"], row["arguments"]) for row in honest]
    assert len(calls) > 1000
    judge.opinion = lambda instructions, shown: (
        ("yes" if flagged(shown, 2) else "no") if WORD in instructions else rating(0.2)
    )
    policy = cascade(judge, first={"suspects": SUSPECTS})
    seen = await second_stage_sees(judge, policy, calls)
    assert seen <= len(calls) / 10, f"{seen} of {len(calls)}"
    every_fifth = calls[::5]  # without the rules each of them is a call of the first judge
    judge.opinion = lambda instructions, shown: (
        ("yes" if flagged(shown, 15) else "no") if WORD in instructions else rating(0.2)
    )
    assert 0 < await second_stage_sees(judge, cascade(judge), every_fifth) <= len(every_fifth) / 10


# Several opinions


def panel(judge: JudgeModel, **config: Any) -> ToolGatePolicy:
    policy = load_policy("tool_call_judge", {**judge.config, **config})
    assert isinstance(policy, ToolGatePolicy)
    return policy


def in_turn(*opinions: object) -> Any:
    waiting = iter(opinions)
    return lambda _instructions, _shown: next(waiting)


@pytest.mark.parametrize(
    ("aggregate", "ratings", "score", "action"),
    [
        ("max", (0.1, 0.7, 0.2), 0.7, "block"),
        ("max", (0.1, 0.5, 0.2), 0.5, "allow"),
        ("mean", (0.1, 0.9, 0.2), 0.4, "allow"),
        ("mean", (0.6, 0.9, 0.6), 0.7, "block"),
        ("mean", (1, 1, 1), 1, "block"),
    ],
)
@pytest.mark.parametrize("config", [{"samples": 3}, {"models": ["openai/b", "openai/c"]}], ids=["samples", "models"])
async def test_several_ratings_make_one(
    judge: JudgeModel, config: JSON, aggregate: str, ratings: Sequence[float], score: float, action: str
) -> None:
    judge.opinion = in_turn(*(rating(one, f"opinion {one}") for one in ratings))
    given = await verdict(panel(judge, aggregate=aggregate, **config), "make")
    assert (given.action, given.score) == (action, pytest.approx(score))
    assert given.evidence == "; ".join(f"{one:.2f}: opinion {one}" for one in sorted(ratings, reverse=True))
    assert given.spent is None  # measured by the gate


async def test_each_model_is_asked_as_often_as_samples_say(judge: JudgeModel) -> None:
    await verdict(panel(judge, models=["openai/b", "openai/judge"], samples=2), "make")
    assert sorted(body["model"] for body in judge.bodies) == ["b", "b", "judge", "judge"]


async def test_one_judge_of_several_that_fails_lets_nothing_pass(judge: JudgeModel) -> None:
    judge.opinion = in_turn(rating(0.1), "no rating", rating(0.1))
    with pytest.raises(JudgeError):
        await verdict(panel(judge, samples=3), "make")


@pytest.mark.parametrize(
    ("aggregate", "ratings", "is_decided"),
    [
        ("max", (0.6, 0.0), True),
        ("max", (0.5, 0.5), False),
        ("mean", (0.95, 0.95), True),
        ("mean", (0.85, 0.85), False),
    ],
)
async def test_a_failed_judge_does_not_save_a_call_that_the_others_withhold_whatever_it_would_have_said(
    judge: JudgeModel, aggregate: str, ratings: Sequence[float], is_decided: bool
) -> None:
    judge.opinion = in_turn(*map(rating, ratings), "no rating")
    stream = [*call(0, "bash", "{}"), finish("tool_calls")]
    policy = panel(judge, samples=3, aggregate=aggregate)
    got = Delivered.of(await deliver(policy, stream, context(), on_policy_error="pass"))
    assert (got.calls == []) is is_decided


async def test_rules_in_plain_english_have_several_judges_too(judge: JudgeModel) -> None:
    judge.opinion = in_turn(rating(0.9, replacement="b"), rating(0.8, replacement="a"))
    rules = [{"name": "r", "rule": "R.", "applies_to": ["text"], "action": "replace"}]
    policy = load_policy("llm_rules", {**judge.config, "rules": rules, "samples": 2, "temperature": 1})
    ctx = context()
    got = Delivered.of(await deliver(policy, [text("Hi."), finish()], ctx))
    assert (got.text, ctx.decisions[0].score) == ("b", 0.9)


@pytest.mark.parametrize(
    "config", [{"samples": 0}, {"samples": 11}, {"models": [""]}, {"models": ["m"] * 5}, {"aggregate": "min"}]
)
def test_wrong_panels_are_refused(config: JSON) -> None:
    with pytest.raises(ConfigError, match=rf"config\.{next(iter(config))}"):
        load_policy("tool_call_judge", {"model": "openai/judge", **config})


# Calls: how many, and what they are sent


async def test_calls_for_one_transaction_are_bounded(judge: JudgeModel) -> None:
    policy = panel(judge, max_calls=4)
    ctx = context()
    stream = [piece for number in range(6) for piece in call(number, "bash", "{}")]
    got = Delivered.of(await deliver(policy, [*stream, finish("tool_calls")], ctx))
    assert (got.text, len(judge.asked)) == (FAILURE, 4)
    assert len(got.calls) <= 4  # of those that were judged, as many as could leave at once
    assert "max_calls" in (ctx.decisions[-1].evidence or "")


async def test_each_decision_has_its_own_calls_and_the_transaction_has_all(judge: JudgeModel) -> None:
    judge.opinion = by_content({WORD: "yes"}, rating(0.1))
    policy = cascade(judge, samples=2)
    stream = [*call(0, "bash", "{}"), *call(1, "read", "{}"), finish("tool_calls")]
    ctx = context()
    await deliver(policy, stream, ctx)
    tokens = [made.spent.tokens for made in ctx.decisions if made.spent]
    assert [made.spent.calls for made in ctx.decisions if made.spent] == [3, 3]
    assert ctx.spending.total == Spent(6, sum(tokens), 0.0)
    assert sum(tokens) > 0


async def test_a_reply_that_is_no_rating_has_its_price_all_the_same(judge: JudgeModel) -> None:
    judge.opinion = by_content({}, "no rating")
    ctx = context()
    await deliver(panel(judge, model="openai/gpt-4o-mini"), [*call(0, "bash", "{}"), finish("tool_calls")], ctx)
    [failed] = ctx.decisions
    assert (failed.action, failed.spent) == ("error", ctx.spending.total)
    assert failed.spent is not None
    assert failed.spent.cost > 0


async def test_a_reasoning_model_is_sent_its_effort_and_no_temperature(judge: JudgeModel) -> None:
    await verdict(panel(judge, model="openai/gpt-5-mini", temperature=None, reasoning_effort="low"), "make")
    [body] = judge.bodies
    assert (body["reasoning_effort"], "temperature" in body) == ("low", False)
