"""Policies and judges that fail in a real proxy: on every route, streamed and not, under both settings of
`on_policy_error`, the client, the record and the provider agree on what became of the answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Cut, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import Said, apart
from tests.support.fault_matrix import (
    AT_ONCE,
    MODES,
    NOTICE,
    UNHEARD,
    Cell,
    Matrix,
    check_provider,
    faulty_proxy,
    matrix,
    see_all,
    when,
)
from tests.support.faulty_policies import SECRET, SENT_LATE
from tests.support.proxy import Proxies, Proxy
from tests.support.taped import check_strictly
from tests.support.waiting import wait_until

TEXT = "orchid; " * 3
ANSWER = Answer([Say(TEXT), Call("tulip", '{"a": 1,"tulip": "tulip"}')], piece=8)
WHOLE = Said(TEXT, (("tulip", {"a": 1, "tulip": "tulip"}),))
ENDLESS, MAX_HOLD_S = "keep on_content_complete", 6
"""The fault that only the limit of a transaction ends, and this limit in seconds."""
JUDGE_HANGS_S = 5
"""Less than the time for which a row waits for the end of its transaction."""
LONG_HOLD_S = 300
"""The limit where all else ends before it, also on a busy machine."""
OPERATORS_OWN = (SECRET, "Traceback", "RuntimeError", "TypeError", "PolicyTimeoutError", "JudgeError", "judge-")


@dataclass(frozen=True)
class Fault:
    """What becomes of a fault: the kind of error and the outcome in the record, and what of the answer the client
    gets before the notice where `on_policy_error` is `block`: `nothing`, the `text`, or `all` and no notice.
    Where the fault shows `in_streams` alone or in full answers alone, the others are whole. What `always_ends` the
    answer does so where `on_policy_error` is `pass`, too."""

    error: str | None = "RuntimeError"
    outcome: str = "policy_error"
    delivers: str = "nothing"
    in_streams: bool = True
    always_ends: bool = False


HUNG = "PolicyTimeoutError", "timeout"
WAITED_FOR = (HUNG[0], "JudgeError")
"""Kinds of errors that take their time, for which a proxy does nothing."""
NONE = Fault(None, "complete", "all")
HOOKS = (
    "on_request",
    "on_chunk_received",
    "on_content_delta",
    "on_content_complete",
    "on_tool_call_delta",
    "on_tool_call_complete",
    "on_finish_reason",
    "on_stream_complete",
)
JUDGES: Mapping[str, tuple[str, int]] = {  # the kind of error, and how often each of them is asked for one rating
    "judge-down": ("InternalServerError", 0),
    "judge-hangs": ("JudgeError", 1),
    "judge-garbage": ("InternalServerError", 4),
    "judge-prose": ("JudgeError", 1),
    "judge-500": ("InternalServerError", 4),
    "judge-cut": ("InternalServerError", 4),
}
FAULTS: Mapping[str, Fault] = {
    ENDLESS: Fault(*HUNG),
    "swallow on_content_complete": Fault(*HUNG, always_ends=True),
    "none": NONE,
    "late on_stream_complete": NONE,
    **{f"raise {hook}": Fault() for hook in HOOKS},
    "raise on_stream_closed": Fault(delivers="all"),
    "raise process_full_response": Fault(in_streams=False),
    "hang on_request": Fault(*HUNG),
    "hang on_content_complete": Fault(*HUNG),
    "hang on_stream_complete": Fault(*HUNG),
    "hang process_full_response": Fault(*HUNG, in_streams=False),
    "nonsense on_request": Fault("PolicyError"),
    "nonsense process_full_response": Fault("PolicyError", in_streams=False),
    **{name: Fault(error, delivers="text") for name, (error, _) in JUDGES.items()},
}
CELLS = matrix(FAULTS)
EACH = pytest.mark.parametrize("cell", CELLS, ids=str)


@pytest.fixture(scope="module")
def _answers(provider: ScriptedProvider) -> Iterator[None]:
    never = Gate()
    provider.answers |= {
        "policy-faults": ANSWER,
        "judge-hangs": Answer([Wait(never), Say("{}")]),
        "judge-garbage": Answer(raw=b"{not json"),
        "judge-prose": Answer([Say(f"It is {SECRET}.")]),
        "judge-500": Answer([Say(SECRET)], status=500),
        "judge-cut": Answer([Cut()]),
    }
    yield
    never.open()


def started(proxies: Proxies, provider_url: str, postgres_url: str, max_hold_s: float) -> Proxy:
    """One proxy with every policy; headers choose."""
    faulty = {"class": "tests.support.faulty_policies:Faulty", "timeout_s": 2}
    policies = [{**faulty, "on_policy_error": mode, "when": when("* *", mode)} for mode in MODES]
    for name in JUDGES:
        base = UNHEARD if name == "judge-down" else provider_url
        config = {"model": f"openai/{name}", "api_base": f"{base}/v1", "api_key": "k"}
        config |= {"timeout_s": JUDGE_HANGS_S if name == "judge-hangs" else LONG_HOLD_S}
        judge = {"class": "tool_call_judge", "config": config, "timeout_s": LONG_HOLD_S}
        policies += [{**judge, "on_policy_error": mode, "when": when(name, mode)} for mode in MODES]
    return faulty_proxy(proxies, provider_url, postgres_url, policies, limits={"max_hold_s": max_hold_s})


@pytest.fixture(scope="module")
def seen(proxies: Proxies, provider_url: str, postgres_url: str, _answers: None) -> Matrix:
    def see(cells: list[Cell], max_hold_s: float, at_once: int) -> Matrix:
        proxy = started(proxies, provider_url, postgres_url, max_hold_s)
        key = proxy.virtual_key()
        return see_all(postgres_url, key, cells, lambda cell, got: cell.ask(proxy, key, "policy-faults", got), at_once)

    endless = [cell for cell in CELLS if cell.fault == ENDLESS]
    waiting = [cell for cell in CELLS if cell not in endless and FAULTS[cell.fault].error in WAITED_FOR]
    others = [cell for cell in CELLS if cell not in endless and cell not in waiting]
    return {
        **see(endless, MAX_HOLD_S, len(endless)),
        **see(waiting, LONG_HOLD_S, 2 * AT_ONCE),
        **see(others, LONG_HOLD_S, AT_ONCE),
    }


@pytest.fixture
def proxy(proxies: Proxies, provider_url: str, postgres_url: str) -> Proxy:
    return started(proxies, provider_url, postgres_url, LONG_HOLD_S)


def shown(cell: Cell) -> Fault:
    """What the fault does to this answer."""
    fault = FAULTS[cell.fault]
    return fault if fault.in_streams or not cell.is_streamed else NONE


def is_ended(cell: Cell) -> bool:
    """Whether the answer is to be ended with the notice."""
    fault = shown(cell)
    return fault.delivers != "all" and (cell.mode == "block" or fault.always_ends)


def is_refused(cell: Cell) -> bool:
    """Whether the request ends with the notice, and no provider is asked."""
    return cell.fault.endswith("on_request") and is_ended(cell)


@EACH
def test_the_client_gets_the_whole_answer_once_or_a_notice_and_nothing_that_was_held(seen: Matrix, cell: Cell) -> None:
    got, record = seen[cell].got, seen[cell].record
    assert got.error is None
    if not is_ended(cell):
        assert got.said == WHOLE
        return
    assert got.said is not None
    notice = NOTICE.fullmatch(got.said.text)
    assert notice is not None, got.said
    assert notice["id"] == record["transaction_id"]
    delivered = TEXT + apart(cell.route) if shown(cell).delivers == "text" else ""
    assert (notice["before"], got.said.calls) == (delivered, ())
    assert b"tulip" not in got.raw
    assert (b"orchid" in got.raw) is bool(delivered)


@EACH
def test_no_byte_of_an_exception_reaches_the_client_and_a_stream_is_legal(seen: Matrix, cell: Cell) -> None:
    raw = seen[cell].got.raw
    assert not [words for words in OPERATORS_OWN if words.encode() in raw]
    is_litellms_own = is_refused(cell) and cell.route == "responses"  # which only official clients can read
    if cell.is_streamed and not is_litellms_own:
        check_strictly(cell.route, raw)


@EACH
def test_the_record_says_what_failed_and_what_was_delivered(seen: Matrix, cell: Cell) -> None:
    record, fault, said = seen[cell].record, shown(cell), seen[cell].got.said
    assert record["outcome"] == fault.outcome
    assert seen[cell].errors == [fault.error] * (fault.error is not None)
    assert {len(policy["version"]) for policy in record["policies"]} == {12}
    assert said is not None
    assert record["changed"] == {"request": False, "answer": is_ended(cell)}
    assert seen[cell].delivered.split() == said.text.split()


@EACH
@pytest.mark.usefixtures("seen")
def test_the_provider_is_asked_once_unless_the_request_was_refused(provider: ScriptedProvider, cell: Cell) -> None:
    check_provider(provider, cell, asked=not is_refused(cell), left=False)


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_is_asked_again_only_where_that_may_help(seen: Matrix, provider: ScriptedProvider, name: str) -> None:
    cells, (_, times) = sum(cell.fault == name for cell in seen), JUDGES[name]
    asked, left = (
        sum(request.body.get("model") == name for request in log) for log in (provider.requests, provider.disconnects)
    )
    assert asked == times * cells
    assert left == (cells if name == "judge-hangs" else 0)


def test_the_operator_is_told_of_each_failure(proxy: Proxy, seen: Matrix) -> None:
    for cell in seen:
        if shown(cell).error is not None:
            assert f"transaction {seen[cell].record['transaction_id']}: policy " in proxy.output, str(cell)


def test_what_is_sent_after_the_end_is_refused(proxy: Proxy, seen: Matrix) -> None:
    for cell in seen:
        if cell.fault.startswith("late"):
            refused = f"{SENT_LATE}: refused, transaction {seen[cell].record['transaction_id']}"
            wait_until(lambda refused=refused: refused in proxy.output)
