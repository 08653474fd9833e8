"""The texts of a request: found and changed on every wire, and nothing else touched."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest

from luthien_litellm_hooks import Request
from luthien_litellm_hooks.policy.notices import notice
from luthien_litellm_hooks.policy.request import RequestText, iter_texts, map_texts

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,text"}}

BODIES: dict[str, tuple[dict[str, Any], list[tuple[str, str]], list[str]]] = {
    "chat": (
        {
            "model": "text",
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "name": "text", "content": [{"type": "text", "text": "look"}, IMAGE]},
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": ["arg", 1.0]}'}},
                        {"id": "y", "type": "custom", "custom": {"name": "g", "input": "free"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "x", "content": "result"},
                {"role": "function", "name": "f", "content": "old result"},
                {"role": "assistant", "content": "answer", "refusal": None},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "description": "text"}}],
        },
        [
            ("system", "be brief"),
            ("user", "look"),
            ("tool", "result"),
            ("tool", "old result"),
            ("assistant", "answer"),
        ],
        ["arg", "free"],
    ),
    "messages": (
        {
            "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "look"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "text": "hm", "signature": "s"},
                        {"type": "text", "text": "answer"},
                        {"type": "tool_use", "id": "x", "name": "f", "input": {"a": ["arg"], "n": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "x", "content": "result"},
                        {"type": "tool_result", "tool_use_id": "y", "content": [{"type": "text", "text": "part"}]},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "text"}},
                        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "paper"}},
                        {
                            "type": "document",
                            "source": {"type": "content", "content": [{"type": "text", "text": "p2"}]},
                        },
                    ],
                },
            ],
        },
        [
            ("system", "be brief"),
            ("user", "look"),
            ("assistant", "answer"),
            ("tool", "result"),
            ("tool", "part"),
            ("user", "paper"),
            ("user", "p2"),
        ],
        ["arg"],
    ),
    "responses": (
        {
            "instructions": "be brief",
            "input": [
                {"role": "user", "content": "look"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "here"}]},
                {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "function_call", "call_id": "x", "name": "f", "arguments": '{"a": "arg"}'},
                {"type": "function_call_output", "call_id": "x", "output": "result"},
                {"type": "custom_tool_call", "call_id": "y", "name": "g", "input": "free"},
                {"type": "local_shell_call", "id": "z", "action": {"command": ["ls"]}},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "answer"}]},
            ],
        },
        [
            ("system", "be brief"),
            ("user", "look"),
            ("user", "here"),
            ("tool", "result"),
            ("assistant", "answer"),
        ],
        ["arg", "free", "ls"],
    ),
    "chat, beside the messages": (
        {
            "messages": [],
            "prediction": {"type": "content", "content": [{"type": "text", "text": "guess"}]},
            "documents": [{"title": "paper", "text": "page"}],
            "user_continue_message": {"role": "user", "content": "go on"},
            "assistant_continue_message": {"role": "assistant", "content": "yes"},
            "initial_prompt_value": "begin",
            "roles": {"user": {"pre_message": "before", "post_message": "after"}},
            "stop": ["halt", "cease"],
        },
        [
            ("user", "guess"),
            ("user", "paper"),
            ("user", "page"),
            ("user", "go on"),
            ("assistant", "yes"),
            ("system", "begin"),
            ("user", "before"),
            ("user", "after"),
            ("system", "halt"),
            ("system", "cease"),
        ],
        [],
    ),
    "chat, with the signs of reasoning on ordinary texts": (
        {
            "messages": [
                {"role": "user", "content": "look", "thought": True},
                {"role": "assistant", "type": "thinking", "content": "answer", "thought": True},
                {"role": "assistant", "content": [{"type": "text", "text": "here", "thought": True}]},
                {"role": "user", "type": "reasoning", "content": [{"type": "text", "text": "there"}]},
            ]
        },
        [("user", "look"), ("assistant", "answer"), ("assistant", "here"), ("user", "there")],
        [],
    ),
    "chat, for Cohere": (
        {
            "preamble": "be brief",
            "chat_history": [
                {"role": "USER", "message": "look"},
                {"role": "CHATBOT", "message": "answer", "tool_calls": [{"name": "f", "parameters": {"a": "arg"}}]},
            ],
            "message": "here",
            "documents": [{"id": "id", "data": {"title": "paper", "body": "page"}}],
            "tool_results": [{"call": {"name": "f", "parameters": {"a": "arg2"}}, "outputs": [{"any": "result"}]}],
            "connectors": [{"id": "text"}],
        },
        [
            ("system", "be brief"),
            ("user", "look"),
            ("assistant", "answer"),
            ("user", "here"),
            ("user", "paper"),
            ("user", "page"),
            ("tool", "result"),
        ],
        ["arg", "arg2"],
    ),
    "messages, beside the messages": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {
                            "type": "text",
                            "text": "answer",
                            "citations": [{"cited_text": "quote", "document_title": "paper", "document_index": 0}],
                        },
                    ],
                }
            ],
            "stop_sequences": ["halt"],
            "context_management": {
                "edits": [{"type": "compact_20260112", "instructions": "in short", "trigger": {"type": "text"}}],
            },
            "safeguards": [
                {
                    "type": "dangerous_tool_use",
                    "classifier_context": {
                        "permission_mode": "text",
                        "live_cwd": "text",
                        "rules": {"deny": ["no pushes"]},
                        "git_state": {"branch": "main"},
                    },
                },
            ],
        },
        [
            ("assistant", "answer"),
            ("assistant", "quote"),
            ("assistant", "paper"),
            ("system", "halt"),
            ("system", "in short"),
            ("system", "no pushes"),
            ("system", "main"),
        ],
        [],
    ),
    "messages, documents and results": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {
                            "type": "bash_code_execution_tool_result",
                            "tool_use_id": "x",
                            "content": {"type": "bash_code_execution_result", "stdout": "out", "stderr": "err"},
                        },
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "document",
                            "title": "paper",
                            "context": "old",
                            "source": {"type": "url", "url": "text"},
                        },
                        {
                            "type": "search_result",
                            "source": "text",
                            "title": "found",
                            "content": [{"type": "text", "text": "a"}],
                        },
                    ],
                },
            ],
        },
        [("tool", "out"), ("tool", "err"), ("user", "paper"), ("user", "old"), ("user", "found"), ("user", "a")],
        [],
    ),
    "responses, results of tools": (
        {
            "input": [
                {
                    "type": "shell_call_output",
                    "call_id": "x",
                    "output": [{"stdout": "out", "stderr": "err", "outcome": {"type": "exit", "exit_code": 0}}],
                },
                {"type": "code_interpreter_call", "id": "y", "outputs": [{"type": "logs", "logs": "log"}]},
                {"type": "file_search_call", "id": "z", "results": [{"file_id": "text", "text": "found"}]},
                {"type": "mcp_call", "id": "m", "name": "f", "output": "given", "error": "failed"},
                {"type": "mcp_approval_response", "approval_request_id": "text", "approve": True, "reason": "why"},
                {"type": "image_generation_call", "id": "i", "result": "text"},
                {"type": "program", "call_id": "p", "code": "run()", "fingerprint": "text"},
                {"type": "program_output", "call_id": "p", "result": "ran"},
            ],
        },
        [
            ("tool", "out"),
            ("tool", "err"),
            ("tool", "log"),
            ("tool", "found"),
            ("tool", "given"),
            ("tool", "failed"),
            ("user", "why"),
            ("tool", "ran"),
        ],
        ["run()"],
    ),
    "gemini, the result of its code": (
        {"contents": [{"role": "model", "parts": [{"codeExecutionResult": {"outcome": "text", "output": "out"}}]}]},
        [("tool", "out")],
        [],
    ),
    "responses, short": ({"input": "look"}, [("user", "look")], []),
    "completions": ({"prompt": "look", "suffix": "end"}, [("user", "look"), ("user", "end")], []),
    "completions, several": ({"prompt": ["look", "here"]}, [("user", "look"), ("user", "here")], []),
    "a stored prompt": (
        {
            "prompt": {"id": "pmpt_1", "variables": {"a": "look", "b": {"type": "input_text", "text": "here"}}},
            "litellm_system_prompt": "be brief",
        },
        [("user", "look"), ("user", "here"), ("system", "be brief")],
        [],
    ),
    "LiteLLM's stored prompt": ({"prompt_id": "p", "prompt_variables": {"a": "look"}}, [("user", "look")], []),
    "completions, tokens": ({"prompt": [[1, 2], [3]]}, [], []),
    "gemini": (
        {
            "systemInstruction": {"role": "user", "parts": [{"text": "be brief"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "look"}, {"inlineData": {"data": "text"}}]},
                {"role": "user", "parts": [{"text": "no thought", "thought": True}]},
                {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"text": "answer"},
                        {"functionCall": {"name": "f", "args": {"name": "arg"}}},
                    ],
                },
                {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": ["result"]}}}]},
            ],
            "generationConfig": {"stopSequences": ["halt"], "responseMimeType": "text"},
        },
        [
            ("system", "be brief"),
            ("user", "look"),
            ("user", "no thought"),
            ("assistant", "answer"),
            ("tool", "result"),
            ("system", "halt"),
        ],
        ["arg"],
    ),
}
CASES = pytest.mark.parametrize(("body", "texts", "arguments"), BODIES.values(), ids=BODIES.keys())


@CASES
def test_the_texts_are_found_with_their_roles(
    body: dict[str, Any], texts: list[tuple[str, str]], arguments: list[str]
) -> None:
    assert list(iter_texts(Request(body))) == [RequestText(role, text, is_notice=False) for role, text in texts]


@CASES
def test_every_text_is_changed_and_nothing_else(
    body: dict[str, Any], texts: list[tuple[str, str]], arguments: list[str]
) -> None:
    before = copy.deepcopy(body)
    changed = map_texts(Request(body), lambda text: f"<{text}>")
    assert body == before, "a request is never changed in place"
    assert json.dumps(changed.body) == marked(body, [text for _, text in texts])


@CASES
def test_arguments_of_earlier_calls_are_changed_if_asked(
    body: dict[str, Any], texts: list[tuple[str, str]], arguments: list[str]
) -> None:
    changed = map_texts(Request(body), lambda text: f"<{text}>", tool_arguments=True)
    assert json.dumps(changed.body) == marked(body, [*(text for _, text in texts), *arguments])


def marked(body: Mapping[str, Any], texts: list[str]) -> str:
    """The body as JSON with these texts in angle brackets, each of which stands in it only once."""
    written = json.dumps(body)
    for text in texts:
        for quote in ('"', '\\"'):
            written = written.replace(f"{quote}{text}{quote}", f"{quote}<{text}>{quote}")
    return written


@CASES
def test_a_request_in_which_nothing_is_changed_is_the_same_object(
    body: dict[str, Any], texts: list[tuple[str, str]], arguments: list[str]
) -> None:
    request = Request(body)
    assert map_texts(request, lambda text: "".join(list(text)), tool_arguments=True) is request


def test_the_pieces_of_a_text_go_with_it() -> None:
    part = {"type": "output_text", "text": "a secret", "logprobs": [{"token": "a sec"}, {"token": "ret"}]}
    request = Request({"input": [{"type": "message", "role": "assistant", "content": [part]}]})
    assert map_texts(request, lambda text: text.replace("absent", "")) is request
    changed = map_texts(request, lambda text: text.replace("secret", "***"))
    assert changed.body["input"][0]["content"] == [{"type": "output_text", "text": "a ***"}]


def test_of_our_own_notices_in_the_history_the_mark_stays() -> None:
    ours = notice("This was withheld.", "t-1")
    messages = [{"role": role, "content": ours} for role in ("user", "assistant")]
    request = Request({"messages": messages})
    assert [(text.role, text.is_notice) for text in iter_texts(request)] == [("user", False), ("assistant", True)]
    changed = map_texts(request, str.upper)
    assert [message["content"] for message in changed.messages] == [
        ours.upper(),
        "[luthien] THIS WAS WITHHELD. (TRANSACTION T-1)",
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None},
        {"messages": "text"},
        {"messages": [None, 1, {"role": 3, "content": {"type": []}}]},
        {"contents": {"parts": {"text": 1}}},
        {"input": [{"type": "function_call", "arguments": None}], "system": [[["deep"]]]},
    ],
)
def test_a_body_of_an_unknown_shape_is_no_error(body: dict[str, Any]) -> None:
    list(iter_texts(Request(body)))
    map_texts(Request(body), str.upper, tool_arguments=True)


def test_what_stands_behind_our_mark_in_an_earlier_answer_is_changed_like_any_text() -> None:
    said = "a secret\n\nand a secret\n\n[luthien] No secret.\n\na secret"
    request = Request({"messages": [{"role": "assistant", "content": said}, {"role": "user", "content": said}]})
    assert [(text.text, text.is_notice) for text in iter_texts(request)] == [
        ("a secret\n\nand a secret", False),
        ("[luthien] No secret.", True),
        ("a secret", False),
        (said, False),
    ]
    changed = map_texts(request, lambda text: text.replace("secret", "***"))
    assert changed.messages[0]["content"] == "a ***\n\nand a ***\n\n[luthien] No ***.\n\na ***"
    assert changed.messages[1]["content"] == said.replace("secret", "***")
