"""Whose turn a request is; read from its body, in whichever wire format that is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

Json = Mapping[str, Any]
Turn = Literal["user", "tool", "side"]

_REMINDER = "<system-reminder>"  # what Claude Code adds to a message is in such a tag
_SIDE_OPENINGS = (
    # Claude Code
    "Analyze if this message indicates a new conversation topic",
    "Generate a concise, sentence-case title",
    "You are naming a coding session",
    "Summarize this coding conversation in under",
    "Please write a 5-10 word title for the following conversation",
    "You are a helpful AI assistant tasked with summarizing conversations",
    "Your task is to create a detailed summary of the conversation so far",
    "The user stepped away and is coming back",
    "[SUGGESTION MODE:",
    "Your task is to process Bash commands that an AI coding agent wants to run",
    "Extract any file paths that this command reads or modifies",
    "You are a security monitor for autonomous AI coding agents",
    # OpenCode
    "You are a title generator",
    "You are an anchored context summarization assistant",
    "Summarize what was done in this conversation",
    # Codex
    "You are a helpful assistant. You will be presented with a user prompt, and your job is to provide a short title",
    "Generate a concise, single-line task title",
    "You are performing a CONTEXT CHECKPOINT COMPACTION",
    # Gemini CLI
    "Analyze *only* the content and structure of your immediately preceding response",
)
"""How the texts begin with which agents ask for titles, summaries and the like, as seen in their traffic."""


def turn_of(body: Json) -> Turn:
    """Whose turn the request is; see `Request.turn`."""
    last = next((item for item in reversed(_items(body)) if _author(item) in ("user", "tool")), None)
    texts = [*_instructions(body), *(_texts(_content(last)) if last is not None else ())]
    if _output_limit(body) == 1 or any(text.lstrip().startswith(_SIDE_OPENINGS) for text in texts):
        return "side"
    return "tool" if last is not None and _is_result(last) else "user"


def _output_limit(body: Json) -> object:
    """How many tokens the answer may have."""
    limits = [body.get(key) for key in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    limits += [config.get("maxOutputTokens") for config in _maps([body.get("generationConfig")])]
    return next((limit for limit in limits if limit is not None), None)


def _items(body: Json) -> Sequence[Json]:
    """The conversation."""
    for said in (body.get(key) for key in ("messages", "input", "contents", "prompt")):
        if isinstance(said, str):
            return [{"role": "user", "content": said}]
        if isinstance(said, list):
            return _maps(cast(object, said))
    return ()


def _author(item: Json) -> Literal["user", "tool", "system", "model"]:
    role = item.get("role")
    if role in ("tool", "function") or str(item.get("type") or "").endswith("_output"):
        return "tool"
    if role in ("system", "developer"):
        return "system"
    return "user" if role == "user" or (role is None and "parts" in item) else "model"


def _is_result(item: Json) -> bool:
    """Whether `item` is a tool's result, to which the user has added nothing."""
    if _author(item) == "tool":
        return True
    content = _content(item)
    has_result = any(part.get("type") == "tool_result" or "functionResponse" in part for part in _maps(content))
    return has_result and all(text.lstrip().startswith(_REMINDER) for text in _texts(content))


def _instructions(body: Json) -> Iterator[str]:
    """The texts of the system prompt."""
    for key in ("system", "instructions"):
        yield from _texts(body.get(key))
    for instruction in _maps([body.get("systemInstruction"), body.get("system_instruction")]):
        yield from _texts(_content(instruction))
    for item in _items(body):
        if _author(item) == "system":
            yield from _texts(_content(item))


def _content(item: Json) -> object:
    return item.get("content") or item.get("parts")


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    yield from (part["text"] for part in _maps(content) if isinstance(part.get("text"), str))


def _maps(value: object) -> Sequence[Json]:
    """The JSON objects in a list; none if it is something else."""
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(Json, item) for item in items if isinstance(item, Mapping)]
