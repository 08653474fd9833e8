"""No gross loss of speed, by ratio: what is compared runs in turn in one process, so that any machine will do."""

import gc
import json
import time
from collections.abc import Callable, Sequence

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Say, dump
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.engine import NOOP, STRING_REPLACEMENT, TOOL_RULES, Stream, call_stream, engine, text_stream

FEW, MANY = 1_000, 8_000
REPEATS = 4

each_route = pytest.mark.parametrize("route", ["chat", "messages", "responses"])


@pytest.fixture(autouse=True, scope="module")
def _only_own_garbage() -> None:
    gc.collect()
    gc.freeze()


def least(*measured: Callable[[], float]) -> list[float]:
    """The least that each took, of several times in turn."""
    rounds = [[measure() for measure in measured] for _ in range(REPEATS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def a_chunk(run: Callable[[Stream], float], stream: Stream) -> Callable[[], float]:
    return lambda: run(stream) / len(stream.items)


def reading_json(frames: Sequence[bytes]) -> float:
    """What it takes to read the JSON of a frame, and to write it: a measure of the machine's speed."""
    began = time.thread_time()
    for frame in frames:
        dump(json.loads(frame.decode().removeprefix("data: ")))
    return (time.thread_time() - began) / len(frames)


@each_route
def test_a_chunk_costs_no_more_than_reading_and_writing_its_json_a_few_times(route: RouteName) -> None:
    stream = text_stream(route, FEW)
    emissions = ROUTES["chat"].wire.stream(Answer([Say("some " * FEW)]), {})
    frames = [frame for frame in emissions if isinstance(frame, bytes) and b"{" in frame]
    chunk, json_of_one = least(a_chunk(engine(NOOP), stream), lambda: reading_json(frames))
    assert chunk / json_of_one < 12


@each_route
def test_a_chunk_of_a_long_text_costs_as_much_as_one_of_a_short_text(route: RouteName) -> None:
    run = engine(STRING_REPLACEMENT)
    few, many = least(a_chunk(run, text_stream(route, FEW)), a_chunk(run, text_stream(route, MANY)))
    assert many / few < 2.5


@each_route
def test_a_chunk_of_a_long_tool_call_costs_as_much_as_one_of_a_short_one(route: RouteName) -> None:
    run = engine(TOOL_RULES)
    few, many = least(a_chunk(run, call_stream(route, FEW)), a_chunk(run, call_stream(route, MANY)))
    assert many / few < 2.5


@each_route
def test_rules_for_tool_calls_add_next_to_nothing_to_text(route: RouteName) -> None:
    stream = text_stream(route, FEW)
    rules, noop = least(a_chunk(engine(TOOL_RULES), stream), a_chunk(engine(NOOP), stream))
    assert rules / noop < 1.4


@each_route
def test_rewriting_text_costs_no_more_than_a_few_times_letting_it_pass(route: RouteName) -> None:
    stream = text_stream(route, FEW)
    rewriting, noop = least(a_chunk(engine(STRING_REPLACEMENT), stream), a_chunk(engine(NOOP), stream))
    assert rewriting / noop < 6
