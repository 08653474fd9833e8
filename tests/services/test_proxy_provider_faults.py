"""Providers that fail behind a real proxy: on every route, streamed and not, under both settings of
`on_policy_error`, which has no say in it unless a limit is reached; and what the limits end."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import takewhile
from types import ModuleType

import pytest

from luthien_litellm_hooks.testing import anthropic_wire, gemini_wire, openai_wire, responses_wire
from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import RouteName
from tests.support.clients import Said, plain_request
from tests.support.fault_matrix import (
    MODELS,
    MODES,
    NOBODY,
    NOTICE,
    Cell,
    Matrix,
    check_provider,
    faulty_proxy,
    matrix,
    see_all,
    when,
)
from tests.support.proxy import Proxies, Proxy
from tests.support.taped import Got, check_strictly, payloads
from tests.support.waiting import wait_until

WIRES: Mapping[str, ModuleType] = {
    "chat": openai_wire,
    "messages": anthropic_wire,
    "responses": responses_wire,
    "gemini": gemini_wire,
}
PREFIXES: Mapping[str, str] = {"chat": "openai", "messages": "anthropic", "responses": "openai", "gemini": "gemini"}
OPERATORS_OWN = (b"Traceback", b"WireError", b"LimitExceeded", b"max_stream_bytes", b"max_held_bytes", b"luthien_")
LIMITS = {"max_stream_bytes": 2_600_000, "max_held_bytes": 1_500_000}

TEXT = "orchid; " * 3
SAY, CALL = Say(TEXT), Call("tulip", '{"a": 1,"tulip": "tulip"}')
CALLED = ("tulip", {"a": 1, "tulip": "tulip"})
LETTERS = "".join(chr(ord("a") + number % 26) for number in range(10_000))
LARGE, TOO_LARGE = ({"tulip": "t" * size} for size in (2**20, 1_800_000))
ENDLESS = "orchid; " * 350_000
ERRORS: Mapping[str, bytes] = {
    "chat": b'data: {"error": {"message": "busy", "type": "server_error", "code": 500}}\n\n',
    "messages": b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n',
    "responses": b"event: error\n"
    b'data: {"type": "error", "code": "server_error", "message": "busy", "param": null, "sequence_number": 99}\n\n',
    "gemini": b'data: {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}\r\n\r\n',
}


@dataclass(frozen=True)
class Fault:
    """What becomes of a fault: the client gets the `whole` answer, one that is `unfinished` as it came, an `error`, or
    a `notice` after the text that came before; `error` is the kind in the record, if something of ours failed."""

    gets: str
    outcome: str = "complete"
    error: str | None = None
    whole: Said | None = None
    status: int | None = None


FAILED, WHOLE = Fault("error", "provider_error"), Fault("whole", whole=Said(TEXT, (CALLED,)))
TOO_MUCH = Fault("notice", "policy_error", "LimitExceededError")
FAULTS: Mapping[str, Fault] = {
    "status 429": Fault("error", "provider_error", status=429),
    "status 500": Fault("error", "provider_error", status=500),
    "refused": Fault("error", "provider_error", status=500),
    "cut": FAILED,
    "garbage": FAILED,
    "silent for a while": WHOLE,
    "too much": TOO_MUCH,
}
IN_STREAMS: Mapping[str, Fault] = {
    "error event": FAILED,
    "block that never closes": WHOLE,
}
LARGE_FAULTS: Mapping[str, Fault] = {
    "a megabyte in one event": Fault("whole", whole=Said(TEXT, (("tulip", LARGE),))),
    "too much to hold": TOO_MUCH,
}
SILENT = ("silent for a while", "cut")
MINDS_MISSING_FINISH = tuple(map(int, version("litellm").split(".")[:2])) >= (1, 109)
"""LiteLLM fails a chat stream that ends without a finish reason, which it made up before."""
OF_ROUTES: Mapping[tuple[str, str], Fault] = {  # LiteLLM skips what it cannot read of Responses, and hands on all
    ("garbage", "responses"): WHOLE,  # bytes of messages and of Gemini, which the policy is asked to judge
    ("garbage", "messages"): Fault("notice", "policy_error", "WireError"),
    ("garbage", "gemini"): Fault("notice", "policy_error", "WireError"),
    ("block that never closes", "chat"): FAILED if MINDS_MISSING_FINISH else WHOLE,
    ("block that never closes", "responses"): FAILED,
    ("block that never closes", "gemini"): Fault("unfinished"),  # LiteLLM asks for no finish, and Google's client does
}
CODES_ARE_TEXTS = "cut", "gemini"
"""The fault that LiteLLM itself tells of within a stream of Gemini, with a code at which Google's client fails."""
OPEN_CALL = (
    b'data: {"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"functionCall": '
    b'{"name": "tulip", "partialArgs": [{"jsonPath": "$.tulip", "stringValue": "tul"}], "willContinue": true}}]}}]}'
)
"""The only call of Gemini's that can stay open: another comes as a whole."""
CELLS = [
    *matrix(FAULTS),
    *(cell for cell in matrix(IN_STREAMS) if cell.is_streamed),
]
LARGE_CELLS = matrix(LARGE_FAULTS)
EACH = pytest.mark.parametrize("cell", [*CELLS, *LARGE_CELLS], ids=str)


def expected(cell: Cell) -> Fault:
    fault = {**FAULTS, **IN_STREAMS, **LARGE_FAULTS}[cell.fault]
    if cell.is_streamed:
        fault = OF_ROUTES.get((cell.fault, cell.route), fault)
    if cell.fault == "too much to hold" and cell.mode == "pass":
        return Fault("whole", "policy_error", "LimitExceededError", Said(TEXT, (("tulip", TOO_LARGE),)))
    return fault


def frames(cell: Cell, answer: Answer) -> list[bytes]:
    """A stream's, up to the step that cuts it."""
    emissions = WIRES[cell.route].stream(answer, {"model": MODELS[cell.route]})
    return list(takewhile(lambda emission: not isinstance(emission, Cut), emissions))


def answer(cell: Cell, gate: Gate) -> Answer:
    """The provider's, which waits at the gate where it is to be silent."""
    match cell.fault:
        case "status 429" | "status 500":
            return Answer([Say("busy")], status=int(cell.fault[-3:]))
        case "cut":
            return Answer([SAY, Wait(gate), CALL, Cut()], piece=8)
        case "garbage":
            sent = frames(cell, Answer([SAY, CALL], piece=8)) if cell.is_streamed else []
            return Answer(raw=b"".join([*sent[: len(sent) // 2], b"data: {not json\n\n", *sent[len(sent) // 2 :]]))
        case "error event":
            return Answer(raw=b"".join([*unfinished(cell), ERRORS[cell.route]]))
        case "block that never closes":
            return Answer(raw=b"".join(unfinished(cell)))
        case "a megabyte in one event":
            return Answer([SAY, Call("tulip", json.dumps(LARGE))], piece=2**21)
        case "too much to hold":
            return Answer([SAY, Call("tulip", json.dumps(TOO_LARGE))], piece=2**16)
        case "too much":
            return Answer([Say(ENDLESS), *([Wait(gate)] if cell.is_streamed else [])], piece=2**16)
        case _:
            return Answer([SAY, Wait(gate), CALL], piece=8)


def unfinished(cell: Cell) -> list[bytes]:
    """The frames of text and of a call that is not closed."""
    if cell.route == "gemini":
        return [*frames(cell, Answer([SAY, Cut()], piece=8)), OPEN_CALL, b"\r\n\r\n"]
    return frames(cell, Answer([SAY, CALL, Cut()], piece=8))


@pytest.fixture(scope="module")
def proxy(proxies: Proxies, provider_url: str, postgres_url: str) -> Proxy:
    holding = {"class": "tests.support.faulty_policies:HoldsCalls"}
    policies = [{**holding, "on_policy_error": mode, "when": when("*", mode)} for mode in MODES]
    return faulty_proxy(proxies, provider_url, postgres_url, policies, limits=LIMITS)


@pytest.fixture(scope="module")
def seen(proxy: Proxy, provider: ScriptedProvider, postgres_url: str) -> Matrix:
    """All that fits into memory is asked at once, and then what is large, one after the other."""
    gates = {cell: Gate() for cell in [*CELLS, *LARGE_CELLS]}
    provider.answers |= {cell.id: answer(cell, gate) for cell, gate in gates.items()}
    key, key_of_large = proxy.virtual_key(), proxy.virtual_key()

    def ask(cell: Cell, got: Got) -> None:
        models = dict.fromkeys(MODELS, NOBODY) if cell.fault == "refused" else MODELS
        asking = threads.submit(cell.ask, proxy, key if cell in CELLS else key_of_large, cell.id, got, models)
        if cell.fault in SILENT:
            gates[cell].wait_reached()
            wait_until(lambda: not cell.is_streamed or b"orchid" in got.raw)
            gates[cell].open()
        asking.result()

    with ThreadPoolExecutor(8) as threads:
        small = see_all(postgres_url, key, CELLS, ask)
        large = see_all(postgres_url, key_of_large, LARGE_CELLS, ask, at_once=1)
    return {**small, **large}


@EACH
def test_the_client_gets_the_whole_answer_or_an_error_or_a_notice_and_nothing_that_was_held(
    seen: Matrix, cell: Cell
) -> None:
    got, fault = seen[cell].got, expected(cell)
    if fault.gets == "whole":
        assert (got.said, got.error) == (fault.whole, None)
    elif fault.gets == "unfinished":
        assert isinstance(got.error, RuntimeError)
        assert got.raw.endswith(OPEN_CALL + b"\n\n")
    elif fault.gets == "error":
        assert got.said is None
        is_unreadable = cell.is_streamed and (cell.fault, cell.route) == CODES_ARE_TEXTS
        assert isinstance(got.error, TypeError) is is_unreadable
        assert fault.status in (None, getattr(got.error, "status_code", getattr(got.error, "code", None)))
    else:
        assert got.said is not None, got.error
        notice = NOTICE.fullmatch(got.said.text)
        assert notice is not None, got.said.text[-200:]
        assert notice["id"] == seen[cell].record["transaction_id"]
        assert (ENDLESS if cell.fault == "too much" else TEXT).startswith(notice["before"].rstrip("\n"))
        assert got.said.calls == ()
    if fault.gets in ("error", "notice"):
        assert b"tulip" not in got.raw


@EACH
def test_no_byte_of_an_exception_of_ours_reaches_the_client_and_what_we_end_is_legal(seen: Matrix, cell: Cell) -> None:
    raw = seen[cell].got.raw
    assert not [words for words in OPERATORS_OWN if words in raw]
    if cell.is_streamed and expected(cell).gets == "notice":
        check_strictly(cell.route, raw)


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.is_streamed and cell.fault in ("cut", "error event")])
def test_what_streamed_before_the_provider_failed_was_delivered(seen: Matrix, cell: Cell) -> None:
    assert b"orchid" in seen[cell].got.raw


@EACH
def test_the_record_says_how_it_ended(seen: Matrix, cell: Cell) -> None:
    fault = expected(cell)
    assert seen[cell].record["outcome"] == fault.outcome
    assert seen[cell].errors == [fault.error] * (fault.error is not None)


@EACH
@pytest.mark.usefixtures("seen")
def test_the_provider_is_asked_once_and_left_only_where_it_sends_too_much(
    provider: ScriptedProvider, cell: Cell
) -> None:
    is_left = cell.fault == "too much" and cell.is_streamed
    check_provider(provider, cell, asked=cell.fault != "refused", left=is_left)


DELTA: Mapping[str, Callable[[JSON], str]] = {
    "chat": lambda chunk: "".join(choice["delta"].get("content") or "" for choice in chunk["choices"]),
    "messages": lambda event: event["delta"]["text"] if event["type"] == "content_block_delta" else "",
    "responses": lambda event: event["delta"] if event["type"] == "response.output_text.delta" else "",
    "gemini": lambda payload: payload["candidates"][0]["content"]["parts"][0]["text"],
}


@pytest.mark.parametrize("route", MODELS)
def test_ten_thousand_tiny_chunks_arrive_one_by_one(proxy: Proxy, provider: ScriptedProvider, route: RouteName) -> None:
    """Read without an official client, which takes longer over them than the proxy does."""
    provider.answers["tiny chunks"] = Answer([Say(LETTERS)], piece=1)
    path, body = plain_request(route, f"{PREFIXES[route]}/{MODELS[route]}", True)
    headers = {"x-fault": "tiny chunks", "x-mode": "block", "x-answer": "tiny chunks"}
    if route == "gemini":
        body["extra_headers"] = headers
    response = proxy.http.post(path, json=body, headers=headers, timeout=300)
    pieces = [DELTA[route](payload) for payload in payloads(response.content)]
    assert [piece for piece in pieces if piece] == list(LETTERS)
