"""The digest of an action: equal for repetitions, different for anything that a client may run differently."""

import hashlib

import pytest

from luthien_litellm_hooks.recording.digest import action_digest


def test_the_digest_is_that_of_its_canonical_form() -> None:
    """Labels in operators' files, and approvals, hold it: it must never change."""
    text = '{"arguments":{"a":[1,2.5,null],"b":"\\u00e9"},"name":"Bash","v":1}'
    assert action_digest("Bash", '{"b": "é",\n "a": [1, 2.5, null]}') == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ("", "{}"),
        ('{"a": {"y": [], "x": 0}}', '{"a":{"x":0,"y":[]}}'),
        ('{"a": "\\u0041"}', '{"a": "A"}'),
    ],
)
def test_spelling_does_not_count(first: str, second: str) -> None:
    assert action_digest("t", first) == action_digest("t", second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": 1}', '{"a": 1.0}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": 1, "a": 2}', '{"a": 2}'),
        ('{"a": 1, "a": 2}', '{"a": 2, "a": 1}'),
        ('{"a": 0.1}', '{"a": 0.1000000000000000055}'),
        ('{"a": 1e400}', '{"a": 1e500}'),
        ('{"a": -0}', '{"a": 0}'),
        ("ls", '"ls"'),
        ("{", "{ "),
        ('{"a": NaN}', '{"a": Infinity}'),
        ("[" * 100_000, "[" * 100_001),
        ("9" * 5_000, "9" * 5_001),
    ],
)
def test_anything_else_does(first: str, second: str) -> None:
    assert action_digest("t", first) != action_digest("t", second)


def test_tools_differ() -> None:
    assert action_digest("Bash", "{}") != action_digest("bash", "{}")


def test_half_a_surrogate_pair_has_a_digest() -> None:
    assert len(action_digest("t", '{"a": "\\ud800"}')) == len(action_digest("t", '"\ud800')) == 64
