"""What a policy is given of a request is a copy: LiteLLM's own data change only by what it returns."""

from typing import Any

import pytest

from luthien_litellm_hooks.hooks.request_data import read_request, write_request


class OfLiteLLM:
    """A value that LiteLLM, not the client, has put into the data."""

    def __init__(self) -> None:
        self.names = ["a"]


def asked() -> dict[str, Any]:
    """LiteLLM's data of a request."""
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "n": 1.5}
    came = {"body": {**body, "tools": None}, "url": "http://proxy/v1/chat/completions", "headers": {}}
    return {**body, "tools": OfLiteLLM(), "metadata": {"own": 1}, "proxy_server_request": came}


def test_what_a_policy_changes_in_its_copy_changes_nothing_else() -> None:
    data = asked()
    request = read_request(data)
    assert request.body == {key: data[key] for key in ("model", "messages", "n")} | {"tools": request.body["tools"]}
    request.body["messages"][0]["content"][0]["text"] = "changed"
    request.body["messages"].append({})
    request.body["tools"].names.append("b")
    assert data["messages"] == asked()["messages"]
    assert data["tools"].names == ["a"]


def test_what_it_returns_is_written_into_the_same_data() -> None:
    data = asked()
    messages = data["messages"]
    write_request(data, read_request(data).replace(model="other").without("n"))
    assert (data["model"], data["metadata"]) == ("other", {"own": 1})
    assert "n" not in data
    assert data["messages"] is messages


def sent(body: dict[str, Any], **of_litellm: Any) -> dict[str, Any]:
    """LiteLLM's data of a request with this body, after it has read the headers."""
    return {**body, **of_litellm, "proxy_server_request": {"body": body, "headers": {}}}


GENERATED = {"litellm_session_id_generated": True, "session_id": "g-1"}
SESSIONS: dict[str, tuple[dict[str, Any], str | None]] = {
    "LiteLLM's, from a header": (sent({"prompt_cache_key": "p-1"}, litellm_session_id="s-1"), "s-1"),
    "generated for one request": (sent({}, litellm_session_id="g-1", metadata=GENERATED), None),
    "generated, on messages": (sent({}, litellm_session_id="g-1", litellm_metadata=GENERATED), None),
    "generated, beside one of the client": (
        sent({"prompt_cache_key": "p-1"}, litellm_session_id="g-1", litellm_metadata=GENERATED),
        "p-1",
    ),
    "in the client's metadata": (sent({"metadata": {"session_id": "m-1"}}, metadata={"own": 1}), "m-1"),
    "in the user's id, as JSON": (sent({"metadata": {"user_id": '{"device_id": "d", "session_id": "u-1"}'}}), "u-1"),
    "in the user's id, as an object": (sent({"metadata": {"user_id": {"session_id": "u-1"}}}), "u-1"),
    "a plain user's id": (sent({"metadata": {"user_id": "jane"}}), None),
    "the key of the prompt's cache": (sent({"prompt_cache_key": "p-1"}), "p-1"),
    "none": (sent({"model": "m"}), None),
    "of wrong types": (sent({"prompt_cache_key": 5, "metadata": ["x"]}, litellm_session_id=["s"]), None),
    "empty": (sent({"prompt_cache_key": ""}, litellm_session_id=""), None),
    "too long": (sent({"prompt_cache_key": "p" * 257}), None),
}


@pytest.mark.parametrize(("data", "session"), SESSIONS.values(), ids=SESSIONS)
def test_the_session_is_the_agents_own(data: dict[str, Any], session: str | None) -> None:
    assert read_request(data).session == session


HIDDEN: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "prediction": {"type": "content", "content": "hi"},
    "prompt_variables": {"a": "hi"},
    "prompt": {"id": "p", "variables": {"a": "hi"}},
    "prompt_id": "p",
    "mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}],
    "web_search_options": {"search_context_size": "low"},
}


@pytest.mark.parametrize("key", HIDDEN)
def test_what_an_extra_body_hides_is_a_request_of_its_own(key: str) -> None:
    """Some of it LiteLLM reads itself, and some providers get what is outside."""
    request = read_request(sent({"model": "m", key: HIDDEN[key], "extra_body": {key: None}}))
    assert [other.body[key] for other in (request, *request.alternatives)] == [None, HIDDEN[key]]
