"""Readable text in structures of the wire: what is text, and what becomes of the structure with another text."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien_litellm_hooks.wire.readable import read, written

STRUCTURE: dict[str, Any] = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {"type": "web_search_result", "title": "One\ntwo", "url": "https://a.example", "encrypted_content": "EqA"},
        {"type": "web_search_result", "title": "", "page_age": "May", "index": 3},
    ],
}
NAMES = st.sampled_from(["title", "text", "type", "id", "file_id", "data", "stdout", "encrypted_content"])
STRUCTURES = st.recursive(
    st.text("ab\n", max_size=4) | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
).filter(lambda structure: isinstance(structure, dict | list))


def test_the_texts_are_read_in_their_order() -> None:
    assert read(STRUCTURE) == "One\ntwo\nhttps://a.example\nMay"


def test_as_many_lines_go_back_where_they_were_read() -> None:
    before = deepcopy(STRUCTURE)
    changed = written(STRUCTURE, "ONE\nTWO\nHTTPS://A.EXAMPLE\nMAY")
    assert changed["content"] == [
        {"type": "web_search_result", "title": "ONE\nTWO", "url": "HTTPS://A.EXAMPLE", "encrypted_content": "EqA"},
        {"type": "web_search_result", "title": "", "page_age": "MAY", "index": 3},
    ]
    assert before == STRUCTURE


def test_other_lines_stand_in_the_first_place_alone() -> None:
    [first, second] = written(STRUCTURE, "only\nthis")["content"]
    assert (first["title"], first["url"], second["page_age"]) == ("only\nthis", "", "")
    assert read(written(STRUCTURE, "")) == ""


@pytest.mark.parametrize(
    "name",
    [
        "type",
        "id",
        "ids",
        "tool_use_id",
        "file_ids",
        "toolUseId",
        "responseIds",
        "index",
        "document_index",
        "startIndex",
        "encrypted_content",
        "encryptedContent",
        "encrypted_index",
        "encrypted_stdout",
        "signature",
        "thoughtSignature",
        "status",
        "role",
        "media_type",
        "mimeType",
        "file_type",
        "retrieved_at",
        "error_code",
        "data",
    ],
)
def test_fields_that_are_no_text_are_neither_read_nor_changed(name: str) -> None:
    structure = {name: "x", "nested": {name: {"text": "x"}}, "said": "y"}
    assert read(structure) == "y"
    assert written(structure, "z") == {**structure, "said": "z"}


@pytest.mark.parametrize(
    "name", ["text", "title", "url", "cited_text", "stdout", "content", "paid", "idea", "indexes", "grid"]
)
def test_other_fields_are_text(name: str) -> None:
    assert read({name: "x"}) == read({name: ["x"]}) == read({name: {"any": "x"}}) == "x"


def test_the_data_of_a_plain_text_is_text() -> None:
    assert read({"type": "text", "media_type": "text/plain", "data": "words"}) == "words"
    assert read({"mimeType": "text/html", "data": "words"}) == "words"
    assert read({"type": "base64", "media_type": "application/pdf", "data": "JVBE"}) == ""


def test_deep_structures_are_read_and_written() -> None:
    deep: Any = {"text": "x"}
    for _ in range(50_000):
        deep = [deep]
    assert read(deep) == "x"
    changed = written(deep, "y")
    assert read(changed) == "y"
    for _ in range(50_000):  # one by one, because Python frees what is nested so deep by recursion
        deep, changed = deep[0], changed[0]


@given(STRUCTURES)
def test_what_was_read_can_be_written_back(structure: Any) -> None:
    before = deepcopy(structure)
    assert written(structure, read(structure)) == structure
    assert read(written(structure, "marker")) == ("marker" if read(structure) else "")
    assert structure == before
