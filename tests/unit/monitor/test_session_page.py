"""The page of a session: its timeline and its plot."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.monitored import BASE, site_of, store, text_of, visiting
from tests.support.record_file import row

CALL = {"type": "tool_call", "id": "c1", "name": "Bash", "arguments": json.dumps({"command": "rm -r build"})}
SESSION = "a/b?c"
PAGE = f"{BASE}/s/{quote(SESSION, safe='/')}"


def stored(number: int, text: str = "Tidy.", score: float = 0.5, *, session: str = SESSION) -> dict[str, Any]:
    request = {"messages": [{"role": "user", "content": text}]}
    decision = {"policy": "judge", "action": "block", "block": {"type": "tool_call", "id": "c1", "name": "Bash"}}
    return row(
        number,
        session=session,
        transaction_id=f"0000000{number:02}-t",
        outcome="blocked",
        decisions=[{**decision, "score": score, "reason": text}],
        original={"request": request, "answer": {"content": [CALL], "finish_reason": "stop"}},
        final={"request": None, "answer": {"content": [{"type": "text", "text": "[luthien] No."}]}},
    )


async def test_a_session_is_told_from_its_beginning_with_a_plot(tmp_path: Path) -> None:
    store(tmp_path / "records.sqlite", stored(1, "Second.", 1.5), stored(2, "First.", 0.25), stored(3, session="other"))
    async with visiting(site_of(tmp_path), "viewer") as client:
        page = (await client.get(PAGE)).text
        view = (await client.get(f"{PAGE}?format=json")).json()
    said = text_of(page)
    assert said.index("Asked First.") < said.index("Asked Second.")
    assert "withheld" in said
    assert "runs rm -r build" in said
    assert "judge 0.25 (Bash), " not in said
    assert [shown["turn"]["asked"] for shown in view["turns"]] == ["First.", "Second."]
    assert view["turns"][0]["turn"]["parts"][0]["effects"][0] == "runs rm -r build"
    assert page.count("<circle") == 2
    assert 'points="8.0,86.0 592.0,8.0 "' in page  # a score above 1 is at the top
    assert "judge: 0.25 for Bash" in page


async def test_a_long_session_has_pages(tmp_path: Path) -> None:
    store(tmp_path / "records.sqlite", *(stored(number, f"Ask {number}.") for number in range(60)))
    seen: list[str] = []
    query = "?format=json"
    async with visiting(site_of(tmp_path), "viewer") as client:
        while query:
            view = (await client.get(f"{PAGE}{query}")).json()
            seen = [shown["turn"]["asked"] for shown in view["turns"]] + seen
            query = f"{view['older']}&format=json" if view["older"] else ""
        newest = (await client.get(PAGE)).text
    assert seen == [f"Ask {number}." for number in reversed(range(60))]
    assert 'rel="next"' in newest
    assert ">Newest<" not in newest


async def test_an_unknown_session_and_a_wrong_position_are_told(tmp_path: Path) -> None:
    store(tmp_path / "records.sqlite", stored(1))
    async with visiting(site_of(tmp_path), "viewer") as client:
        assert (await client.get(f"{BASE}/s/other")).status_code == 404
        for before in ("x", "2026-01-01~y", "2026-01-01T00:00+00:00~", "0001-01-01T00:00+14:00~y"):
            assert (await client.get(PAGE, params={"before": before})).status_code == 400, before
    for key in ("approver", None):
        async with visiting(site_of(tmp_path), key) as client:
            assert (await client.get(PAGE)).status_code == 403


async def test_texts_are_never_markup_and_a_page_stays_light(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\u202e\x1b[31m</td>\u2028" + "<" * 1_000_000
    session = "<script>alert(2)</script>\u202e"
    content = [{**CALL, "name": hostile, "arguments": hostile}, {"type": "text", "text": hostile}]
    side = {"request": {"messages": [{"role": "user", "content": hostile}]}, "answer": {"content": content}}
    rows = [stored(number, hostile, session=session) for number in range(3)]
    rows += [row(9, session=session, transaction_id="000009-t", original=side, final=side)]
    store(tmp_path / "records.sqlite", *rows)
    async with visiting(site_of(tmp_path), "viewer") as client:
        response = await client.get(f"{BASE}/s/{quote(session, safe='')}")
    assert response.status_code == 200
    assert "<script>alert" not in response.text
    assert not {"\u202e", "\x1b", "\u2028"}.intersection(response.text)
    assert len(response.text) < 100_000
