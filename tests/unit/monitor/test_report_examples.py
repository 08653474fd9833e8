"""Examples of a report, with the calls that a person may label."""

from luthien_litellm_hooks.monitor.report import TITLES, Call, report_on
from luthien_litellm_hooks.monitor.transactions import read_transaction
from tests.support.record_file import row

CALLS = [{"type": "tool_call", "id": str(number), "name": "Bash", "arguments": f'{{"n":{number}}}'} for number in "123"]
ABOUT = [{"type": "tool_call", "id": str(number), "name": "Bash"} for number in "123"]
DECISIONS = [
    {"policy": "rules", "action": "allow", "block": ABOUT[0]},
    {"policy": "rules", "action": "block", "block": ABOUT[1], "reason": "no"},
    {"policy": "rules", "action": "ask", "block": ABOUT[2]},
]
OBSERVED = [{"policy": "rules", "version": "v1", "outcome": "blocked", "decisions": DECISIONS, "milliseconds": 2.0}]


def test_an_example_has_the_calls_that_would_not_have_passed() -> None:
    side = {"request": {}, "answer": {"content": [{"type": "text", "text": "hi"}, *CALLS]}}
    stored = row(0, transaction_id="t0", observed=OBSERVED, original=side, final=side)
    [policy] = report_on([read_transaction(stored)]).policies
    [example] = policy.examples
    assert example.calls == [Call(2, "Bash", '{"n":2}'), Call(3, "Bash", '{"n":3}')]
    assert example.reason == "Bash: no (rules); ask Bash (rules)"
    cells = dict(zip(TITLES, policy.cells(), strict=True))
    assert cells["would block"] == "1"
    assert cells["95 % interval"] == "20.7%-100.0%"
    assert cells["held p50/p95"] == "2.0/2.0 ms"


def test_an_example_without_texts_has_no_calls() -> None:
    stored = row(0, observed=OBSERVED)
    del stored["metadata"]["spend_logs_metadata"]["luthien"]["original"]
    [policy] = report_on([read_transaction(stored)]).policies
    assert [example.calls for example in policy.examples] == [[]]


def test_reasons_for_no_judgement_are_in_words_and_the_most_frequent_first() -> None:
    words = ["full", "late", "late", "new"]
    report = report_on(read_transaction(row(number, observed=word)) for number, word in enumerate(words))
    assert [(count, word) for count, word, _ in report.missing] == [(2, "late"), (1, "full"), (1, "new")]
    assert [reason for _, _, reason in report.missing][2] == "unknown"
