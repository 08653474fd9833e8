"""What a policy is given of a request is a copy: LiteLLM's own data change only by what it returns."""

from typing import Any

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
