"""`fallbacks`: requests that a client has LiteLLM make when its own fails, with fields of theirs in place of its."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from litellm.proxy import litellm_pre_call_utils

from luthien_litellm_hooks.hooks import extra_body
from luthien_litellm_hooks.hooks.client_request import LITELLM_OWN, body_of

_FIELDS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_OVERRIDE = "router_settings_override"
_NOT_TO_SET: frozenset[str] = (
    LITELLM_OWN
    | frozenset(cast(Any, litellm_pre_call_utils)._UNTRUSTED_ROOT_CONTROL_FIELDS)
    | frozenset({"stream", "no-log", "guardrails", _OVERRIDE})
)
"""Fields that LiteLLM takes from a request alone, or takes away from it, and not from a fallback."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """One that stands in `holder` at `index`: the name of a model, or fields. `above` are the fields of those
    that it stands in."""

    holder: list[object]
    index: int
    above: Mapping[str, object]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that it puts into the request."""
        own = self.holder[self.index]
        return dict(cast(Mapping[str, Any], own)) if isinstance(own, Mapping) else {"model": own}

    def applied_to(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """LiteLLM's data of the request that it makes."""
        fields = {**self.above, **self.fields}
        came = {**data["proxy_server_request"], "body": {**body_of(data), **fields}}
        made = {**data, **fields, "proxy_server_request": came}
        extra_body.own_copy(made)
        extra_body.settle(made)
        return made

    def put(self, data: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Makes it set what `wanted` has, LiteLLM's data of the request that is to be made in place of `data`'s."""
        made = {**data, **self.above, **self.fields}
        keys = (made.keys() | wanted.keys()) - LITELLM_OWN
        changed = {key: wanted.get(key) for key in keys if wanted.get(key) != made.get(key)}
        if changed:  # LiteLLM takes a list of names or one of fields, not both in one
            self.holder[:] = [entry if isinstance(entry, Mapping) else {"model": entry} for entry in self.holder]
            self.holder[self.index] = {**self.fields, **changed}


def fallbacks_in(data: Mapping[str, Any]) -> Iterator[Fallback]:
    """All that the client names."""
    sources = [data]
    override = data.get(_OVERRIDE)
    if isinstance(override, Mapping) and override is body_of(data).get(_OVERRIDE):  # else a key's, or a team's
        sources.append(cast(Mapping[str, Any], override))
    for source in sources:
        yield from _below(source, {})


def clean_fallbacks(data: dict[str, Any]) -> None:
    """Takes away what a fallback sets that is no client's to set."""
    for fallback in list(fallbacks_in(data)):
        own = fallback.holder[fallback.index]
        if isinstance(own, Mapping):
            fields = cast(Mapping[str, object], own)
            fallback.holder[fallback.index] = {
                key: value for key, value in fields.items() if key not in _NOT_TO_SET and not key.startswith("_")
            }


def _below(source: Mapping[str, Any], above: Mapping[str, object]) -> Iterator[Fallback]:
    for field in _FIELDS:
        yield from _in_list(source.get(field), above)


def _in_list(listed: object, above: Mapping[str, object]) -> Iterator[Fallback]:
    """The entries of a list, and of the lists by the name of the model that they are for."""
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
            group = next(iter(fields), None)  # LiteLLM takes the first key for the name of a model
            if group not in (None, *_FIELDS, *extra_body.CONTENT):
                yield from _in_list(fields[group], above)
