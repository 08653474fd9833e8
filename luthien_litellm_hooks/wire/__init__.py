"""Wire formats: bytes or objects of LiteLLM to events, and back.

One folder holds all of a format: its record (in `__init__.py`) and its adapter. `FORMATS` is the table that hooks,
policies, recording, the command and the scripted provider read.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from luthien_litellm_hooks.wire.format import JsonObject, WireFormat
from luthien_litellm_hooks.wire.request_shape import Json, RequestShape, merged

BUILT_IN = ("chat", "messages", "responses", "gemini", "completions")
"""Folders of the formats, in the order of `FORMATS`."""
_FALLBACK = "responses"
"""Format whose log shape holds every kind of block, for logs of an unknown shape."""


class WireFormats:
    """An ordered table of wire formats. Records are imported at the first look-up, and `register` adds others."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = tuple(folders)
        self._formats: dict[str, WireFormat] | None = None
        self._by_call_type: dict[str, WireFormat] = {}
        self._request = RequestShape()
        self._content = frozenset[str]()
        self._response_texts = frozenset[str]()

    def register(self, wire: WireFormat) -> None:
        """Adds a format behind the others. Raises `ValueError` if its name or a call type is taken."""
        known = self._known()
        taken = [name for name in (wire.name,) if name in known]
        taken += [call_type for call_type in wire.call_types if call_type in self._by_call_type]
        if taken:
            raise ValueError(f"another wire format has {taken[0]!r}")
        self._set({**known, wire.name: wire})

    def unregister(self, name: str) -> None:
        """Removes a format that `register` added."""
        if name in self._folders:
            raise ValueError(f"{name!r} is built in")
        self._set({known: wire for known, wire in self._known().items() if known != name})

    def __iter__(self) -> Iterator[WireFormat]:
        return iter(self._known().values())

    def __getitem__(self, name: str) -> WireFormat:
        return self._known()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known()

    def of_call_type(self, call_type: str) -> WireFormat | None:
        """Returns the format of a call, by LiteLLM's name for its kind."""
        self._known()
        return self._by_call_type.get(call_type)

    def recognise(self, payload: Json) -> WireFormat | None:
        """Returns the format of a full response, or of a unit of a stream."""
        return next((wire for wire in self if wire.recognises(payload)), None)

    def recognise_stream(self, text: str) -> WireFormat | None:
        """Returns the format of the text of a recorded stream."""
        firsts = ((wire, next(wire.units(text), None)) for wire in self)
        return next((wire for wire, unit in firsts if unit is not None and wire.recognises(unit)), None)

    @property
    def request(self) -> RequestShape:
        """Union of all request shapes."""
        self._known()
        return self._request

    @property
    def content(self) -> frozenset[str]:
        """All fields of requests that policies judge, with their texts and tools."""
        self._known()
        return self._content

    @property
    def response_texts(self) -> frozenset[str]:
        """Members of responses with text of the model, on any wire."""
        self._known()
        return self._response_texts

    def rewrite_log(self, logged: Json, blocks: Iterable[Mapping[str, Any]], finish_reason: str | None) -> JsonObject:
        """Returns the delivered `blocks` in the shape of `logged`, a response in LiteLLM's log. Other members stay if
        they cannot repeat withheld content."""
        wire = next((wire for wire in self if wire.log.holds(logged)), self[_FALLBACK])
        harmless = frozenset[str]().union(*(one.log.other_fields for one in self))
        others = {name: value for name, value in logged.items() if name in harmless}
        return others | wire.log.content(logged, tuple(blocks), finish_reason)

    def _known(self) -> dict[str, WireFormat]:
        if self._formats is None:
            records = (import_module(f"{__name__}.{folder}") for folder in self._folders)
            return self._set({record.FORMAT.name: record.FORMAT for record in records})
        return self._formats

    def _set(self, formats: dict[str, WireFormat]) -> dict[str, WireFormat]:
        self._by_call_type = {call_type: wire for wire in formats.values() for call_type in wire.call_types}
        self._request = merged(wire.request for wire in formats.values())
        read = self._request
        texts = (*read.texts, *read.variables, *read.stored_prompts)
        tools = (*read.tools, *read.tool_choices, *read.implied_tools, *read.unlisted_tools)
        self._content = frozenset((*texts, *tools))
        self._response_texts = frozenset[str]().union(*(wire.response_texts for wire in formats.values()))
        self._formats = formats
        return formats


FORMATS = WireFormats(BUILT_IN)
