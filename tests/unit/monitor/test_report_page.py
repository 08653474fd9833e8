"""The report page, with its buttons for labels."""

import json
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.monitor.labels import add_label, label_now, read_labels
from luthien_litellm_hooks.monitor.site import Site
from tests.support.monitored import BASE, SAME_ORIGIN, sent, site_of, store, text_of, token_of, visiting
from tests.support.record_file import row

LS, CAT = ("Bash", '{"command": "ls"}'), ("Read", '{"file_path": "/etc/hosts"}')
REPORT = "/report"


def observed(number: int, outcome: str = "blocked", *calls: tuple[str, str], reason: str = "no") -> dict[str, Any]:
    content = [
        {"type": "tool_call", "id": str(at), "name": name, "arguments": text} for at, (name, text) in enumerate(calls)
    ]
    about = [{name: one[name] for name in ("type", "id", "name")} for one in content]
    decisions = [{"policy": "rules", "action": "block", "reason": reason, "block": one} for one in about]
    judged = {"policy": "rules", "version": "v1", "outcome": outcome, "decisions": decisions, "milliseconds": 2.0}
    side = {"request": {"messages": []}, "answer": {"content": content, "finish_reason": "stop"}}
    return row(number, transaction_id=f"0000000{number}-t", observed=[judged], original=side, final=side)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    store(
        tmp_path / "records.sqlite",
        observed(1, "blocked", LS, CAT),
        observed(2, "complete"),
        observed(3, "timeout"),
        row(4, observed="late"),
        row(5),
    )
    return site_of(tmp_path)


async def test_the_numbers_are_those_of_the_command(site: Site) -> None:
    async with visiting(site, "viewer") as client:
        page = (await client.get(f"{BASE}{REPORT}")).text
        view = (await client.get(f"{BASE}{REPORT}?format=json")).json()
    said = text_of(page)
    assert "3 responses observed" in said
    assert "1 not observed, late: its observers took longer" in said
    assert "rules v1 3 1 6.1%-79.2% 0 0 1 2.0/2.0 ms $0.0000" in said
    [policy] = view["policies"]
    assert policy["numbers"]["blocked"] == 1
    assert policy["numbers"]["interval"] == pytest.approx([0.0615, 0.7923], abs=1e-4)
    assert [example["transaction_id"] for example in policy["examples"]] == ["00000001-t", "00000003-t"]
    assert f'href="{BASE}/t/00000001-t"' in page
    assert "no label" in said
    assert "<button name=" not in page  # an admin who may only view


async def test_a_button_writes_the_line_that_the_command_writes(site: Site) -> None:
    back = f"{REPORT}?since=1d&policy=rules"
    async with visiting(site) as client:
        fields = {"transaction": "00000001-t", "block": "2", "label": "block", "back": back}
        done = await sent(client, "/label", REPORT, **fields)
        assert (done.status_code, done.headers["location"]) == (303, BASE + back)
        again = await sent(client, "/label", REPORT, **{**fields, "back": "https://evil.example"})
        assert (again.status_code, again.headers["location"]) == (303, f"{BASE}/t/00000001-t")
        opposite = await sent(client, "/label", REPORT, **{**fields, "label": "allow"})
        assert opposite.status_code == 409
        assert "line 1 by admin says block of Read" in text_of(opposite.text)
        page = text_of((await client.get(f"{BASE}{REPORT}")).text)
    assert page.count("labelled block") == 1
    [text] = site.labels.read_text().splitlines()
    written = json.loads(text)
    assert (written["by"], written["transaction"], written["block"]) == ("admin", "00000001-t", 2)
    assert read_labels(site.labels).of(*CAT) == "block"


async def test_a_label_of_the_command_is_shown(site: Site) -> None:
    add_label(site.labels, label_now("allow", LS, by="alice"), "ls")
    async with visiting(site) as client:
        page = (await client.get(f"{BASE}{REPORT}")).text
    assert text_of(page).count("labelled allow") == 1
    assert page.count('<button name="label"') == 2  # for the other call


async def test_the_page_of_a_transaction_has_the_same_buttons(site: Site) -> None:
    async with visiting(site) as client:
        page = (await client.get(f"{BASE}/t/00000001-t")).text
        assert page.count('<button name="label"') == 4
        assert f'href="{BASE}/policy?on=00000001-t#try"' in page
        done = await sent(
            client, "/label", "/t/00000001-t", transaction="00000001-t", block="1", label="allow", back=""
        )
        assert done.headers["location"] == f"{BASE}/t/00000001-t"
        page = (await client.get(f"{BASE}/t/00000001-t")).text
        assert page.count('<button name="label"') == 2
        assert "labelled allow" in text_of(page)
    async with visiting(site, "viewer") as client:
        assert '<button name="label"' not in (await client.get(f"{BASE}/t/00000001-t")).text


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"transaction": "00000009-t"}, 404),
        ({"transaction": "0000000"}, 404),  # several begin so
        ({"transaction": "response-1"}, 404),  # a client may choose it
        ({"block": "3"}, 404),
        ({"block": "0"}, 404),
        ({"block": "-1"}, 404),
        ({"block": "\u0662"}, 404),
        ({"block": "9" * 5000}, 404),
        ({"label": "deny"}, 400),
        ({"label": ""}, 400),
    ],
)
async def test_wrong_fields_write_nothing(site: Site, fields: dict[str, str], status: int) -> None:
    async with visiting(site) as client:
        given = {"transaction": "00000001-t", "block": "1", "label": "allow", **fields}
        assert (await sent(client, "/label", REPORT, **given)).status_code == status
    assert not site.labels.exists()


async def test_only_an_admin_labels_with_the_token_of_a_page_of_this_origin(site: Site) -> None:
    fields = {"transaction": "00000001-t", "block": "1", "label": "allow"}
    for key in ("viewer", "approver", None):
        async with visiting(site, key) as client:
            response = await client.post(f"{BASE}/label", data=fields, headers=SAME_ORIGIN)
            assert response.status_code == 403
    async with visiting(site) as client:
        token = token_of((await client.get(f"{BASE}{REPORT}")).text)
        for headers, sent_token in (
            (SAME_ORIGIN, ""),
            (SAME_ORIGIN, "0" * 64),
            ({"sec-fetch-site": "cross-site"}, token),
            ({"sec-fetch-site": "same-site"}, token),
            ({}, token),
        ):
            response = await client.post(f"{BASE}/label", data={**fields, "token": sent_token}, headers=headers)
            assert response.status_code == 403
        assert (await client.get(f"{BASE}/label")).status_code == 405
    assert not site.labels.exists()


async def test_a_place_that_cannot_be_written_and_a_broken_file_are_told(site: Site) -> None:
    site.labels.write_text("{}\n")
    async with visiting(site) as client:
        page = (await client.get(f"{BASE}{REPORT}")).text
        assert "labels.jsonl:1: this is not a label: action: Field required" in text_of(page)
        assert "<button name=" not in page
        site.labels.unlink()
        site.labels.mkdir()
        assert "cannot be read: [Errno 21]" in text_of((await client.get(f"{BASE}{REPORT}")).text)


async def test_without_any_observation_the_page_says_what_to_do(tmp_path: Path) -> None:
    async with visiting(site_of(tmp_path), "viewer") as client:
        page = text_of((await client.get(f"{BASE}{REPORT}")).text)
        assert "Set enforce: false beside a policy" in page
        for since in ("soon", "9" * 5000 + "d", "0001-01-01T00:00+14:00", "99999999999d"):
            response = await client.get(f"{BASE}{REPORT}", params={"since": since})
            assert response.status_code == 400, since
            assert "is not a time" in text_of(response.text)


async def test_texts_of_a_model_are_never_markup_and_stay_in_their_bounds(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\u202e\x1b[31m</td>\u2028" + "x" * 1_000_000
    calls = [(hostile, hostile)] * 2
    store(tmp_path / "records.sqlite", *(observed(number, "blocked", *calls, reason=hostile) for number in range(1, 3)))
    async with visiting(site_of(tmp_path)) as client:
        page = (await client.get(f"{BASE}{REPORT}")).text
    assert "<script>alert" not in page
    assert not {"\u202e", "\x1b", "\u2028"}.intersection(page)
    assert "\\u202e" in page
    assert len(page) < 100_000
