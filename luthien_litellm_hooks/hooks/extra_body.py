"""`extra_body`: fields that LiteLLM puts into the provider's request, in place of those beside it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

FIELD = "extra_body"
_OF_THE_ROUTE = frozenset({"model", "stream", "metadata", "litellm_metadata"})
"""Fields that are read where LiteLLM reads them: beside `extra_body`."""
CONTENT = frozenset(
    {"messages", "input", "prompt", "suffix", "system", "instructions", "contents"}
    | {"systemInstruction", "system_instruction", "tools", "functions", "tool_choice", "function_call"}
)
"""What policies judge: the texts and tools of a request, on whatever wire."""


def merged(data: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The fields of `data` that are named, and those that its `extra_body` puts in their place or adds."""
    outer, *inner = _layers(data)
    fields = {key: outer[key] for key in keys if not (inner and key == FIELD)}
    for layer in inner:
        fields |= {key: value for key, value in layer.items() if _is_for_provider(key, value)}
    return fields


def models(data: Mapping[str, Any]) -> list[object]:
    """The models that `extra_body` names."""
    return [layer["model"] for layer in _layers(data)[1:] if "model" in layer]


def put(data: dict[str, Any], key: str, value: object) -> None:
    """Sets a field where `merged` has read it; one that is new stands beside `extra_body`."""
    layers = [layer for layer in _layers(data) if key in layer]
    if key in _OF_THE_ROUTE or not layers:
        layers = [data]
    was = layers[-1].get(key)
    for layer in layers:
        if key not in CONTENT or layer.get(key) == was:
            layer[key] = value


def remove(data: dict[str, Any], key: str) -> None:
    """Takes a field away wherever it stands."""
    for layer in _layers(data)[: 1 if key in _OF_THE_ROUTE else None]:
        layer.pop(key, None)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Texts and tools that an `extra_body` puts others in place of: `keys` of the layer at `index`. Some providers
    get these: LiteLLM does not put `extra_body` into each request."""

    index: int
    keys: frozenset[str]

    def applied_to(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """LiteLLM's data of a request that has these."""
        made = dict(data)
        own_copy(made)
        for layer in _layers(made)[self.index + 1 :]:
            for key in self.keys & layer.keys():
                del layer[key]
        return made

    def put(self, data: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Sets those of `data` to what they are in `wanted`."""
        layer, its_wanted = _layers(data)[self.index], _layers(wanted)[self.index]
        for key in self.keys:
            layer.pop(key, None)
        layer |= {key: its_wanted[key] for key in self.keys & its_wanted.keys()}


def hidden_in(data: Mapping[str, Any]) -> list[Hidden]:
    """All that is hidden, from outside to inside."""
    layers = _layers(data)
    read: dict[str, object] = {}
    found: list[Hidden] = []
    for index in reversed(range(len(layers))):
        keys = CONTENT & layers[index].keys()
        hidden = frozenset(key for key in keys & read.keys() if layers[index][key] != read[key])
        found += [Hidden(index, hidden)] if hidden else []
        read |= {key: layers[index][key] for key in keys - read.keys()}
    return found[::-1]


def settle(data: dict[str, Any]) -> None:
    """Leaves one reading of what would be hidden: that of `merged`."""
    fields = merged(data, ())
    for layer in _layers(data):
        layer |= {key: fields[key] for key in CONTENT & fields.keys() & layer.keys()}


def own_copy(data: dict[str, Any]) -> None:
    """Gives `data` an `extra_body` that it shares with nobody."""
    layer = data
    while isinstance(inner := layer.get(FIELD), dict):
        layer[FIELD] = dict(cast(dict[str, Any], inner))
        layer = cast(dict[str, Any], layer[FIELD])


def _layers(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`data`, its `extra_body`, and so on: an upstream that is a LiteLLM takes the next one out."""
    layers = [cast(dict[str, Any], data)]
    while isinstance(inner := layers[-1].get(FIELD), dict):
        layers.append(cast(dict[str, Any], inner))
    return layers


def _is_for_provider(key: str, value: object) -> bool:
    return key not in _OF_THE_ROUTE and not (key == FIELD and isinstance(value, dict))
