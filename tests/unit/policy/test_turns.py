"""Whose turn a request is, which tools it offers, and where it came from; on every wire."""

from typing import Any

import pytest

from luthien_litellm_hooks import Request
from luthien_litellm_hooks.hooks.request_data import read_request
from luthien_litellm_hooks.recording.record import is_credential

JSON = dict[str, Any]

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "You are a coding agent."}
CALLED = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "read", "arguments": "{}"}}]}
REMINDER = {"type": "text", "text": "<system-reminder>Mind the list.</system-reminder>"}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "done"}
BASH = {"name": "Bash", "input_schema": {}}


def words(text: str, kind: str = "text") -> JSON:
    return {"type": kind, "text": text}


def codex(text: str) -> JSON:
    return {"type": "message", "role": "user", "content": [words(text, "input_text")]}


CHAT_TURNS: dict[str, tuple[str, JSON]] = {
    "a message": ("user", {"messages": [SYSTEM, USER]}),
    "a message after an answer": ("user", {"messages": [USER, {"role": "assistant", "content": "hi"}, USER]}),
    "parts": ("user", {"messages": [{"role": "user", "content": [words("hello"), {"type": "image_url"}]}]}),
    "an image alone": ("user", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    "no message": ("user", {"messages": []}),
    "a prompt": ("user", {"prompt": "hello"}),
    "prompts": ("user", {"prompt": ["hello", "there"]}),
    "a result": ("tool", {"messages": [USER, CALLED, {"role": "tool", "tool_call_id": "a", "content": "done"}]}),
    "a result of old": ("tool", {"messages": [USER, {"role": "function", "name": "read", "content": "done"}]}),
    "a result, then the system": ("tool", {"messages": [USER, CALLED, {"role": "tool", "content": "done"}, SYSTEM]}),
    "a result, then the user": ("user", {"messages": [USER, CALLED, {"role": "tool", "content": "done"}, USER]}),
    "a probe": ("side", {"messages": [USER], "max_tokens": 1}),
    "a probe in new words": ("side", {"messages": [USER], "max_completion_tokens": 1}),
    "a short answer": ("user", {"messages": [USER], "max_tokens": 2}),
    "a title of OpenCode": (
        "side",
        {
            "messages": [
                {"role": "system", "content": "You are a title generator. You output ONLY a thread title."},
                {"role": "user", "content": "Generate a title for this conversation:\n"},
                USER,
            ]
        },
    ),
}
MESSAGES_TURNS: dict[str, tuple[str, JSON]] = {
    "a message": ("user", {"system": "You are Claude Code.", "messages": [USER], "tools": [BASH]}),
    "a message with a reminder": ("user", {"messages": [{"role": "user", "content": [REMINDER, words("hello")]}]}),
    "a result": ("tool", {"messages": [USER, {"role": "user", "content": [RESULT]}]}),
    "a result with a reminder": ("tool", {"messages": [USER, {"role": "user", "content": [RESULT, REMINDER]}]}),
    "a result and words": ("user", {"messages": [USER, {"role": "user", "content": [RESULT, words("No, stop.")]}]}),
    "an answer begun for the model": ("user", {"messages": [USER, {"role": "assistant", "content": "{"}]}),
    "a quota probe": ("side", {"max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]}),
    "a topic": (
        "side",
        {
            "system": [words("Analyze if this message indicates a new conversation topic. If it does, extract ...")],
            "messages": [USER, {"role": "assistant", "content": "{"}],
        },
    ),
    "a title": (
        "side",
        {
            "system": [words("Summarize this coding conversation in under 50 characters.\nCapture the main task.")],
            "messages": [{"role": "user", "content": "Please write a 5-10 word title the following conversation:"}],
        },
    ),
    "a newer title": (
        "side",
        {
            "system": [
                words("x-anthropic-billing-header: cc_version=2.1"),
                words("You are Claude Code, Anthropic's official CLI for Claude."),
                words("Generate a concise, sentence-case title (3-7 words) that captures the main topic"),
            ],
            "messages": [USER],
            "tools": [],
        },
    ),
    "the newest title": (
        "side",
        {"system": [words("You are naming a coding session so that it can be found.")], "messages": [USER]},
    ),
    "a suggestion, with tools": (
        "side",
        {
            "messages": [USER, {"role": "user", "content": [REMINDER, words("\n[SUGGESTION MODE: Suggest what ...")]}],
            "tools": [BASH],
        },
    ),
    "a summary": (
        "side",
        {
            "system": "You are a helpful AI assistant tasked with summarizing conversations.",
            "messages": [USER, {"role": "user", "content": [words("Your task is to create a detailed summary")]}],
        },
    ),
    "a talk about titles": (
        "user",
        {"messages": [{"role": "user", "content": "Why does it say 'You are a title generator'?"}], "tools": [BASH]},
    ),
    "words of a side request in a result": (
        "tool",
        {"messages": [USER, {"role": "user", "content": [{**RESULT, "content": "[SUGGESTION MODE: on]"}]}]},
    ),
    "an old side request in the history": (
        "user",
        {"messages": [{"role": "user", "content": "[SUGGESTION MODE: Suggest"}, {"role": "assistant"}, USER]},
    ),
}
RESPONSES_TURNS: dict[str, tuple[str, JSON]] = {
    "a text": ("user", {"input": "hello", "instructions": "You are Codex."}),
    "a message": ("user", {"input": [{"type": "message", "role": "developer", "content": "x"}, codex("hello")]}),
    "a message without type": ("user", {"input": [USER]}),
    "a result": (
        "tool",
        {
            "input": [
                codex("hello"),
                {"type": "function_call", "call_id": "a", "name": "shell", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": "done"},
            ]
        },
    ),
    "a custom tool's": ("tool", {"input": [codex("hello"), {"type": "custom_tool_call_output", "output": "done"}]}),
    "a shell's": ("tool", {"input": [codex("hello"), {"type": "local_shell_call_output", "output": "done"}]}),
    "a result, then the user": ("user", {"input": [{"type": "function_call_output", "output": "done"}, USER]}),
    "a probe": ("side", {"input": "hello", "max_output_tokens": 1}),
    "a title of Codex": (
        "side",
        {
            "instructions": "You are Codex, an agent.",
            "input": [
                codex("<environment_context></environment_context>"),
                codex(
                    "You are a helpful assistant. You will be presented with a user prompt, and your job is to "
                    "provide a short title for a task that will be created from that prompt."
                ),
            ],
        },
    ),
    "a compaction": (
        "side",
        {"input": [codex("hello"), codex("You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff")]},
    ),
}
GEMINI_TURNS: dict[str, tuple[str, JSON]] = {
    "a message": ("user", {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}),
    "a message without role": ("user", {"contents": [{"parts": [{"text": "hello"}]}]}),
    "a result": (
        "tool",
        {
            "contents": [
                {"role": "user", "parts": [{"text": "hello"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "read", "args": {}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "read", "response": {}}}]},
            ]
        },
    ),
    "a probe": (
        "side",
        {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"maxOutputTokens": 1, "temperature": 0}},
    ),
    "a title": (
        "side",
        {
            "systemInstruction": {"parts": [{"text": "You are a title generator."}]},
            "contents": [{"parts": [{"text": "hello"}]}],
        },
    ),
    "who speaks next": (
        "side",
        {
            "contents": [
                {"role": "user", "parts": [{"text": "hello"}]},
                {"role": "model", "parts": [{"text": "Done."}]},
                {
                    "role": "user",
                    "parts": [
                        {"text": "Analyze *only* the content and structure of your immediately preceding response (..."}
                    ],
                },
            ]
        },
    ),
}
WIRES = {"chat": CHAT_TURNS, "messages": MESSAGES_TURNS, "responses": RESPONSES_TURNS, "gemini": GEMINI_TURNS}
CASES = [
    pytest.param(turn, body, id=f"{wire}: {name}")
    for wire, turns in WIRES.items()
    for name, (turn, body) in turns.items()
]


@pytest.mark.parametrize(("turn", "body"), CASES)
def test_a_turn_is_known_on_every_wire(turn: str, body: JSON) -> None:
    assert Request(body).turn == turn


ODD_BODIES: list[JSON] = [
    {},
    {"messages": None, "system": 5, "tools": "all"},
    {"messages": ["hello", 5, None]},
    {"messages": [{}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": 5}], "max_tokens": "1"},
    {"messages": [{"role": "user", "content": [5, None, {"type": "text"}, {"type": "text", "text": None}]}]},
    {"contents": [{"parts": "hello"}], "generationConfig": [], "systemInstruction": "You are a title generator"},
    {"input": {"role": "user"}, "tools": [5, {}, {"name": 5}, {"function": None}, {"functionDeclarations": [{}]}]},
]


@pytest.mark.parametrize("body", ODD_BODIES, ids=str)
def test_a_body_of_any_shape_can_be_read(body: JSON) -> None:
    assert (Request(body).turn, Request(body).tool_names) == ("user", ())


@pytest.mark.parametrize(
    ("names", "body"),
    [
        (("read", "write"), {"tools": [{"type": "function", "function": {"name": n}} for n in ("read", "write")]}),
        (("grep",), {"tools": [{"type": "custom", "custom": {"name": "grep"}, "name": "grep"}]}),
        (("old",), {"functions": [{"name": "old"}]}),
        (("Bash", "web_search"), {"tools": [BASH, {"type": "web_search_20250305", "name": "web_search"}]}),
        (
            ("shell", "web_search", "local_shell"),
            {"tools": [{"type": "function", "name": "shell"}, {"type": "web_search"}, {"type": "local_shell"}]},
        ),
        (("a", "b"), {"tools": [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}]}),
        (("c",), {"tools": [{"function_declarations": [{"name": "c"}]}]}),
        ((), {"messages": [USER]}),
    ],
)
def test_the_tools_of_every_wire_have_names(names: tuple[str, ...], body: JSON) -> None:
    assert Request(body).tool_names == names


def test_a_changed_request_still_says_where_it_came_from() -> None:
    request = Request({"model": "m", "user": "u"}, route="/v1/messages", headers={"x-team": "red"})
    for changed in (request.replace(model="n"), request.without("user")):
        assert (changed.route, changed.headers) == ("/v1/messages", {"x-team": "red"})
    assert request.replace(model="n").body == {"model": "n", "user": "u"}
    assert request.without("user").body == {"model": "m"}


def test_requests_that_ask_for_the_same_are_equal_wherever_they_came_from() -> None:
    assert Request({"model": "m"}, route="/v1/messages", headers={"x-team": "red"}) == Request({"model": "m"})
    assert Request({"model": "m"}) != Request({"model": "n"})


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "Proxy-Authorization", "X-Api-Key", "api-key", "x-goog-api-key", "x-litellm-api-key"),
        *("Ocp-Apim-Subscription-Key", "Cookie", "Set-Cookie", "x-mcp-auth", "x-mcp-github-authorization"),
        *("x-amz-security-token", "cf-access-jwt-assertion", "api_key", "accessToken", "aws_secret_access_key"),
        *("client_secret", "password", "refresh_token", "vertex_credentials"),
    ],
)
def test_a_credential_is_known_by_its_name(name: str) -> None:
    assert is_credential(name)


@pytest.mark.parametrize(
    "name", ["user-agent", "x-stainless-lang", "anthropic-beta", "max_tokens", "session-id", "author", "keyword", ""]
)
def test_other_names_are_no_credentials(name: str) -> None:
    assert not is_credential(name)


def test_a_request_without_a_client_has_neither_route_nor_headers() -> None:
    request = read_request({"model": "m", "messages": []})
    assert (request.route, request.headers) == ("", {})
