"""Requests with a marker in every place that the wires' types know: a request policy gets each readable text."""

import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase
from litellm.types.llms.cohere import ChatHistory, ToolResultObject
from litellm.types.llms.vertex_ai import HttpxContentType, RequestBody
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from typing_extensions import ReadOnly, TypedDict, get_type_hints, is_typeddict

from luthien_litellm_hooks import Request
from luthien_litellm_hooks.policy.request import map_texts

JSON = dict[str, Any]


class CohereParams(TypedDict, total=False):
    preamble: str
    message: str
    chat_history: ChatHistory
    tool_results: list[ToolResultObject]


class GeminiParams(TypedDict, total=False):
    contents: list[HttpxContentType]


BODIES = {
    "chat": ChatParams,
    "chat, for Cohere": CohereParams,
    "completions": CompletionParams,
    "messages": MessageCreateParamsBase,
    "responses": ResponseCreateParamsBase,
    "gemini, as LiteLLM writes it": RequestBody,
    "gemini": GeminiParams,
}

LEFT = re.compile(
    r"""(?x) (.*\.)? (
    # Identifiers, names, addresses, kinds and places
      (\w*_)? (id|name|url|uri|ids\[\]) | [a-z]*Id | source | path | filename | model | user | namespace | version
    | safety_identifier | prompt_cache_key | container | conversation | fingerprint | page_age | retrieved_at
    | stop_reason | trigger | server_label | toolType | outcome | language | (mime|media)_?[tT]ype | mode | betas\[\]
    | city | country | region | timezone | inference_geo | serviceTier | cachedContent | mediaResolution
    | languageCode | voice | voiceName | speaker | allowed_function_names\[\] | context_management\[\]\.type
    | error\.(code|param|type) | size | categories\[\] | metadata\..*
    # Data that is not readable, or only for the provider
    | (file_)?data | (\w*_)?(signature|token) | [a-z]*(Signature|Token) | encrypted_\w+ | image_generation_call\.result
    # Tools and the form of the response
    | ( tools | functions | tool | tool_choice | tool_configuration | (exclude|allowed)_tools\[\] | toolConfig
      | clear_tool_inputs\[\] | skills\[\] | (json_)?schema | response\w*[sS]chema | responseFormat | format
      | labels | fallbacks\[\] | video_metadata ) ([.\[].*)?
    # Reasoning, and warnings in the provider's words
    | thinking\.thinking | reasoning\.(content|summary)\[\].* | \w+_safety_checks\[\]\..*
    )"""
)
"""Places whose texts are left alone."""


def filled(of: Any, path: str, around: tuple[Any, ...] = ()) -> list[Any]:
    """Values of a type, each with its place in every text: one for each member of a union."""
    origin, arguments = get_origin(of), get_args(of)
    if origin in (Annotated, Required, NotRequired, ReadOnly):
        return filled(arguments[0], path, around)
    if origin in (Union, types.UnionType):
        return [value for each in arguments if each is not type(None) for value in filled(each, path, around)]
    if origin is Literal:
        return [arguments[0]]
    if origin is dict or of is dict or (origin and issubclass(origin, Mapping)):
        return [{"key": value} for value in filled(arguments[1] if arguments else str, f"{path}.key", around)[:1]]
    if origin and issubclass(origin, Iterable):
        values = filled(arguments[0], f"{path}[]", around)
        return [values] if values else []
    if is_typeddict(of):
        return list(objects(of, path, around)) if around.count(of) < 2 else []
    return [{str: f"<{path}>", int: 7, float: 7.5, bool: False}.get(of, f"<{path}>")]


def objects(of: Any, path: str, around: tuple[Any, ...]) -> Iterator[JSON]:
    hints = get_type_hints(of, include_extras=True)
    kind = next(iter(get_args(hints.get("type"))), None)
    place = f"{path}.{get_args(kind)[0]}" if path.endswith("]") and get_origin(kind) is Literal else path
    fields = {name: filled(hint, f"{place}.{name}".lstrip("."), (*around, of)) for name, hint in hints.items()}
    fields = {name: values for name, values in fields.items() if values}
    for number in range(max(map(len, fields.values()), default=1)):
        yield {name: values[number % len(values)] for name, values in fields.items()}


@pytest.mark.parametrize("of", BODIES.values(), ids=BODIES.keys())
def test_no_readable_text_of_a_request_is_missed(of: Any) -> None:
    bodies: list[JSON] = filled(of, "")
    assert len(bodies) < 100
    for body in bodies:
        changed = map_texts(Request(body), lambda text: re.sub("<[^<>]*>", "***", text), tool_arguments=True)
        left = set(re.findall("<([^<>]*)>", json.dumps(changed.body)))
        assert {place for place in left if not LEFT.fullmatch(place)} == set()
