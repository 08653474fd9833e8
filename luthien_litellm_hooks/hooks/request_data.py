"""LiteLLM's `data` of a request: the client's fields in it, the other requests made of it, and the policies' `Request`.

LiteLLM puts the fields of `extra_body` into the provider's request, over those beside it. It makes the requests of
`fallbacks` when the client's own fails, with some fields replaced.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, cast

import httpx
from litellm.constants import SESSION_ID_GENERATED_METADATA_KEY
from litellm.exceptions import ModifyResponseException
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from litellm.proxy import litellm_pre_call_utils
from litellm.types.utils import Choices, Message, ModelResponse, Usage

from luthien_litellm_hooks.hooks import HEADER, is_nonce
from luthien_litellm_hooks.hooks.routes import governed_format, path_of, paths_of, refusal
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recording.record import is_credential
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import SCALARS, json_copy, json_object

MAX_ALTERNATIVES = 10
"""Most requests that LiteLLM may make of a client's one: each is judged, and costs as much."""
_METADATA = ("metadata", "litellm_metadata")
_MOST_OF_SESSION = 256
"""Longest id of a session, in characters; a longer one is none."""
_WEIGHTY = (str, dict, list)
LITELLM_OWN = frozenset(
    {"metadata", "litellm_metadata", "_litellm_skip_openai_stream_done", "_litellm_raw_sse_stream"}
    | {
        "litellm_logging_obj",
        "proxy_server_request",
        "secret_fields",
    }  # LiteLLM's own objects, even if a client sends them
)


def body_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the body as it came, or as LiteLLM changed it since."""
    return cast(Mapping[str, Any], _client_request(data).get("body") or {})


def headers_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns the headers, with names in lower case."""
    headers = cast(Mapping[str, str], _client_request(data).get("headers") or {})
    return {name.lower(): value for name, value in headers.items()}


def keys_of(data: Mapping[str, Any]) -> set[str]:
    """Returns the client's keys of `data`, and the model, even if it came in the path or the query."""
    return ((body_of(data).keys() | {"model"}) & data.keys()) - LITELLM_OWN


def _client_request(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], data.get("proxy_server_request") or {})


EXTRA_BODY = "extra_body"
_OUTSIDE_EXTRA_BODY = frozenset({"model", "stream", "metadata", "litellm_metadata"})
"""Fields read beside `extra_body`, not in it."""


def merged_fields(data: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Returns the named fields of `data`, with the replacements and additions of its `extra_body`."""
    outer, *inner = _layers(data)
    fields = {key: outer[key] for key in keys if not (inner and key == EXTRA_BODY)}
    for layer in inner:
        fields |= {key: value for key, value in layer.items() if _is_for_provider(key, value)}
    return fields


def extra_body_models(data: Mapping[str, Any]) -> list[object]:
    return [layer["model"] for layer in _layers(data)[1:] if "model" in layer]


def put_field(data: dict[str, Any], key: str, value: object) -> None:
    """Sets a field where `merged_fields` reads it; a new one goes beside `extra_body`."""
    layers = [layer for layer in _layers(data) if key in layer]
    if key in _OUTSIDE_EXTRA_BODY or not layers:
        layers = [data]
    was = layers[-1].get(key)
    for layer in layers:
        if key not in FORMATS.content or layer.get(key) == was:
            layer[key] = value


def remove_field(data: dict[str, Any], key: str) -> None:
    """Removes a field at every depth."""
    for layer in _layers(data)[: 1 if key in _OUTSIDE_EXTRA_BODY else None]:
        layer.pop(key, None)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Texts and tools under `keys` of the layer at `index`, hidden by an `extra_body`.

    Some providers get these: LiteLLM does not put `extra_body` into each request.
    """

    index: int
    keys: frozenset[str]

    def applied_to(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns LiteLLM's data of a request with these fields."""
        made = dict(data)
        own_extra_body(made)
        for layer in _layers(made)[self.index + 1 :]:
            for key in self.keys & layer.keys():
                del layer[key]
        return made

    def put(self, data: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Sets these fields of `data` to their values in `wanted`."""
        layer, its_wanted = _layers(data)[self.index], _layers(wanted)[self.index]
        for key in self.keys:
            layer.pop(key, None)
        layer |= {key: its_wanted[key] for key in self.keys & its_wanted.keys()}


def hidden_in(data: Mapping[str, Any]) -> list[Hidden]:
    """Returns all hidden fields, from the outer layer to the inner one."""
    layers = _layers(data)
    read: dict[str, object] = {}
    found: list[Hidden] = []
    for index in reversed(range(len(layers))):
        keys = FORMATS.content & layers[index].keys()
        hidden = frozenset(key for key in keys & read.keys() if layers[index][key] != read[key])
        found += [Hidden(index, hidden)] if hidden else []
        read |= {key: layers[index][key] for key in keys - read.keys()}
    return found[::-1]


def settle_extra_body(data: dict[str, Any]) -> None:
    """Removes hidden values: each field keeps its value in `merged_fields`."""
    fields = merged_fields(data, ())
    for layer in _layers(data):
        layer |= {key: fields[key] for key in FORMATS.content & fields.keys() & layer.keys()}


def own_extra_body(data: dict[str, Any]) -> None:
    """Gives `data` a copy of its `extra_body`."""
    layer = data
    while isinstance(inner := layer.get(EXTRA_BODY), dict):
        layer[EXTRA_BODY] = dict(cast(dict[str, Any], inner))
        layer = cast(dict[str, Any], layer[EXTRA_BODY])


def _layers(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns `data`, its `extra_body`, and so on: an upstream LiteLLM takes the next one out."""
    layers = [cast(dict[str, Any], data)]
    while isinstance(inner := layers[-1].get(EXTRA_BODY), dict):
        layers.append(cast(dict[str, Any], inner))
    return layers


def _is_for_provider(key: str, value: object) -> bool:
    return key not in _OUTSIDE_EXTRA_BODY and not (key == EXTRA_BODY and isinstance(value, dict))


_FALLBACK_FIELDS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_OVERRIDE = "router_settings_override"
_NOT_TO_SET: frozenset[str] = (
    LITELLM_OWN
    | frozenset(cast(Any, litellm_pre_call_utils)._UNTRUSTED_ROOT_CONTROL_FIELDS)
    | frozenset({"stream", "no-log", "guardrails", _OVERRIDE})
)
"""Fields read or removed by LiteLLM only in the request itself, not in a fallback."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """Fallback at `index` of `holder`: the name of a model, or fields. `above` are the fields of the fallbacks around
    it."""

    holder: list[object]
    index: int
    above: Mapping[str, object]

    @property
    def fields(self) -> dict[str, Any]:
        """Its own fields of the request."""
        own = self.holder[self.index]
        return dict(cast(Mapping[str, Any], own)) if isinstance(own, Mapping) else {"model": own}

    def applied_to(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns LiteLLM's data of its request."""
        fields = {**self.above, **self.fields}
        client_request = {**data["proxy_server_request"], "body": {**body_of(data), **fields}}
        made = {**data, **fields, "proxy_server_request": client_request}
        own_extra_body(made)
        settle_extra_body(made)
        return made

    def put(self, data: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Makes the fallback set the fields of `wanted`: LiteLLM's data of the judged request."""
        made = {**data, **self.above, **self.fields}
        keys = (made.keys() | wanted.keys()) - LITELLM_OWN
        changed = {key: wanted.get(key) for key in keys if wanted.get(key) != made.get(key)}
        if changed:  # LiteLLM takes a list of names or a list of fields, not both in one
            self.holder[:] = [entry if isinstance(entry, Mapping) else {"model": entry} for entry in self.holder]
            self.holder[self.index] = {**self.fields, **changed}


def fallbacks_in(data: Mapping[str, Any]) -> Iterator[Fallback]:
    """Yields the client's fallbacks."""
    sources = [data]
    override = data.get(_OVERRIDE)
    if isinstance(override, Mapping) and override is body_of(data).get(
        _OVERRIDE
    ):  # otherwise it belongs to a key or a team
        sources.append(cast(Mapping[str, Any], override))
    for source in sources:
        yield from _below(source, {})


def clean_fallbacks(data: dict[str, Any]) -> None:
    """Removes forbidden fields from the client's fallbacks."""
    for fallback in list(fallbacks_in(data)):
        own = fallback.holder[fallback.index]
        if isinstance(own, Mapping):
            fields = cast(Mapping[str, object], own)
            fallback.holder[fallback.index] = {
                key: value for key, value in fields.items() if key not in _NOT_TO_SET and not key.startswith("_")
            }


def _below(source: Mapping[str, Any], above: Mapping[str, object]) -> Iterator[Fallback]:
    for field in _FALLBACK_FIELDS:
        yield from _in_list(source.get(field), above)


def _in_list(listed: object, above: Mapping[str, object]) -> Iterator[Fallback]:
    """Yields the entries of a list, and of the lists under the names of models."""
    if not isinstance(listed, list):
        return
    holder = cast(list[object], listed)
    for index, entry in enumerate(holder):
        if isinstance(entry, str):
            yield Fallback(holder, index, above)
        elif isinstance(entry, Mapping):
            fields = cast(Mapping[str, Any], entry)
            yield Fallback(holder, index, above)
            yield from _below(fields, {**above, **fields})
            group = next(iter(fields), None)  # LiteLLM reads the first key as the name of a model
            if group not in (None, *_FALLBACK_FIELDS, *FORMATS.content):
                yield from _in_list(fields[group], above)


_RESPONSE_FIELDS = (
    "enable_json_schema_validation",  # fails over a response that does not fit
    "complete_response",  # makes one response of a stream
    "fake_stream",
    "merge_reasoning_content_in_choices",  # makes text of reasoning
    "include_fallback_errors",  # quotes the errors of models that were asked before
    "litellm_request_debug",  # writes the provider's response into the proxy's log
)
_IN_RESPONSE_FORMAT = ("enforce_validation",)
_IN_EXTRA_BODY = ("stream", "stream_options")  # asks for another form of response than LiteLLM reads


def remove_response_fields(data: dict[str, Any]) -> None:
    """Removes fields from a judged request and its fallbacks.

    With them LiteLLM would read a response differently before policies see it, or fail over its text.
    """
    for body in (data, *_fallback_bodies(data)):
        for field in _RESPONSE_FIELDS:
            body.pop(field, None)
        for holder, fields in (("response_format", _IN_RESPONSE_FORMAT), ("extra_body", _IN_EXTRA_BODY)):
            held: object = body.get(holder)
            if isinstance(held, dict) and not held.keys().isdisjoint(fields):
                body[holder] = {key: value for key, value in cast(dict[str, Any], held).items() if key not in fields}


def _fallback_bodies(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for fallback in fallbacks_in(data):
        own = fallback.holder[fallback.index]
        if isinstance(own, dict):
            yield cast(dict[str, Any], own)


def nonce_of(data: Mapping[str, Any]) -> str | None:
    """Returns the nonce if LiteLLM's `data` belong to a probe of `luthien-hooks doctor`."""
    value: object = headers_of(data).get(HEADER)
    return value if isinstance(value, str) and is_nonce(value) else None


Alternative = Fallback | Hidden


def read_request(data: dict[str, Any], call_type: str = "") -> Request:
    """Returns a copy of the client's request as `data` has it now, without LiteLLM's own keys and without headers that
    carry credentials."""
    headers = {name: value for name, value in headers_of(data).items() if not is_credential(name)}
    paths = paths_of(call_type, str(data.get("model") or ""))
    session = session_of(data)
    request = Request(read_body(data), route=path_of(data) or "", headers=headers, session=session, paths=paths)
    others = [_fields(one.applied_to(data)) for one in alternatives_in(data)]  # to look at: policies get copies
    return replace(request, alternatives=[replace(request, body=body) for body in others])


def session_of(data: Mapping[str, Any]) -> str | None:
    """Returns the id of the session of a request, None without one.

    LiteLLM knows it from the headers of agents, or generates one for a single request, which does not count. The other
    sources are fields of the client.
    """
    is_generated = any(_object(data.get(key)).get(SESSION_ID_GENERATED_METADATA_KEY) for key in _METADATA)
    body = body_of(data)
    metadata = _object(body.get("metadata"))
    user: object = metadata.get("user_id")
    found: tuple[object, ...] = (
        None if is_generated else data.get("litellm_session_id"),
        None if is_generated else metadata.get("session_id"),
        _object(json_object(user) if isinstance(user, str) else user).get("session_id"),
        body.get("prompt_cache_key"),
    )
    return next((id for id in found if isinstance(id, str) and 0 < len(id) <= _MOST_OF_SESSION), None)


def _object(value: object) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def alternatives_in(data: dict[str, Any]) -> list[Alternative]:
    """Returns the other requests that LiteLLM may make of this one. Raises a refusal if they are too many."""
    found = list(islice(chain(hidden_in(data), fallbacks_in(data)), MAX_ALTERNATIVES + 1))
    if len(found) > MAX_ALTERNATIVES:
        raise refusal(400, f"The request was refused: it names more than {MAX_ALTERNATIVES} fallbacks.")
    return found


def read_body(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of the client's request body as the provider gets it."""
    return {key: json_copy(value) for key, value in _fields(data).items()}


def is_too_large(data: dict[str, Any], max_values: int) -> bool:
    """Tells whether the client's request holds more than `max_values` fields and list items, numbers aside."""
    seen, waiting = 0, [cast(object, body_of(data))]
    while waiting and seen <= max_values:
        value = waiting.pop()
        if isinstance(value, dict):
            fields = cast(dict[str, object], value)
            seen += len(fields)
            waiting += [field for field in fields.values() if isinstance(field, dict | list)]
        elif isinstance(value, list):
            items: list[object] = [item for item in cast(list[object], value) if isinstance(item, _WEIGHTY)]
            seen += len(items)
            waiting += items
    return seen > max_values


def shorten(data: dict[str, Any]) -> None:
    """Empties all lists and objects of the client's request, wherever LiteLLM keeps them: the rest is cheap to log."""
    keys = [key for key in keys_of(data) if not isinstance(data[key], SCALARS)]
    for place in (data, body_of(data)):
        if isinstance(place, dict):
            place.update({key: [] for key in keys})


def write_request(data: dict[str, Any], final: Request) -> None:
    """Puts the changes of `final` into `data`, in place: other parts of LiteLLM hold the same object."""
    now = _fields(data)
    for key in now.keys() - final.body.keys():
        remove_field(data, key)
    for key, value in final.body.items():
        if key not in now or now[key] != value:
            put_field(data, key, value)


def answer_instead(data: dict[str, Any], answer: Answer, call_type: str) -> None:
    """Makes LiteLLM respond with `answer` without calling a provider, without tokens, and without its cache.

    From `mock_response` LiteLLM makes the response itself. Where it makes no stream of it, this raises
    `ModifyResponseException`: LiteLLM makes the response of that, and its stream passes our hook like any other.
    """
    model, wire = str(data.get("model") or ""), governed_format(call_type)
    if not wire.makes_mock_streams:
        raise ModifyResponseException(answer.text, model=model, request_data=data, guardrail_name="luthien")
    message = Message(role="assistant", content=answer.text)
    data["mock_response"] = ModelResponse(
        model=model,
        choices=[Choices(index=0, finish_reason="stop", message=message)],
        usage=Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
    )
    data["cache"] = {"no-cache": True, "no-store": True}
    if wire.provider_reply is not None and data.get("stream"):
        data["mock_response"] = "-"  # never delivered: see `replying_client`; of an object LiteLLM makes no stream here


def replying_client(reply: Callable[[str, bool], str], answer: Answer, call_type: str) -> AsyncHTTPHandler:
    """Returns an HTTP client for LiteLLM that replies with `answer` in the provider's form, without a network."""
    is_streaming = call_type in governed_format(call_type).streaming_call_types
    text = reply(answer.text, is_streaming)
    return AsyncHTTPHandler(transport=httpx.MockTransport(lambda _: httpx.Response(200, text=text)))


def _fields(data: dict[str, Any]) -> dict[str, Any]:
    return merged_fields(data, keys_of(data))
