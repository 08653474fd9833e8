"""Tickets that log a browser in: each once, for some minutes."""

import pytest

from luthien_litellm_hooks.monitor import tickets
from luthien_litellm_hooks.monitor.tickets import Tickets

HOLDER = {"key": "sk-of-somebody"}


def test_a_ticket_counts_once() -> None:
    issued = Tickets()
    ticket = issued.issue(HOLDER)
    assert issued.take(f"{ticket}x") is None
    assert [issued.take(ticket), issued.take(ticket)] == [HOLDER, None]
    assert issued.issue(HOLDER) != ticket


def test_a_ticket_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    issued = Tickets()
    monkeypatch.setattr(tickets, "VALID_S", 0.0)
    assert issued.take(issued.issue(HOLDER)) is None


def test_the_oldest_of_too_many_makes_way() -> None:
    issued = Tickets()
    given = [issued.issue({"key": str(number)}) for number in range(101)]
    assert issued.take(given[0]) is None
    assert issued.take(given[1]) == {"key": "1"}
