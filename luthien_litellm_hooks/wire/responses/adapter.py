"""Adapter of responses as LiteLLM hands them to a plugin: events of `/v1/responses`, `ResponsesAPIResponse`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from litellm.types.llms.openai import ResponsesAPIResponse

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import Chunk, Finish, StreamEvent, Unknown
from luthien_litellm_hooks.wire.format import ResponseRules
from luthien_litellm_hooks.wire.responses.fields import full_template
from luthien_litellm_hooks.wire.responses.kinds import LISTS, get, pieces
from luthien_litellm_hooks.wire.responses.read import Reader
from luthien_litellm_hooks.wire.responses.write import Writer

_MANY_PARTS = 500


class ResponsesAdapter:
    """Adapter of one response.

    `template` makes a response to copy if the provider has not sent one. Few responses need it.
    """

    def __init__(self, rules: ResponseRules, template: Callable[[], ResponsesAPIResponse]) -> None:
        self.rules = rules
        self._make_template = template
        self._reader = Reader()
        self._writer = Writer(self._template)

    def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns one chunk."""
        return (Chunk.from_wire(raw, self._reader.read(raw)),)

    def is_long(self, raw: object) -> bool:
        """Returns whether a unit has a response or an item of many parts."""
        if "delta" in getattr(raw, "__dict__", ()):
            return False
        response, item = get(raw, "response"), get(raw, "item")
        items = pieces(response, "output") if item is None else [item]
        left = _MANY_PARTS - len(items)
        return left < 0 or any(len(pieces(item, within)) > left for item in items for within in LISTS)

    def flush(self) -> Sequence[Chunk]:
        """Returns the actions that never got complete."""
        events = tuple(self._reader.read_incomplete())
        return (Chunk.from_wire(events, events),) if events else ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """Returns units with just `events`; repetitions repeat what the client got."""
        return self._writer.write_changed(events)

    def encode_unchanged(self, chunk: Chunk, *, as_came: bool) -> Iterable[object]:
        """Returns the unit of `chunk`, rewritten if earlier ones changed, after units that waited for it."""
        if not as_came or self._writer.is_changed:
            return self._writer.write_unchanged(chunk.events)
        self._writer.observe(chunk.raw, chunk.events)
        return () if chunk.raw is chunk.events else (chunk.raw,)

    def ping(self) -> Iterable[object]:
        """Returns the wire's own keepalive with the number of the last unit; nothing before the first unit."""
        return self._writer.keepalive()

    def decode_full(self, response: object) -> Chunk:
        """Returns the events of every item, one delta a block."""
        events: Sequence[StreamEvent] = (Unknown(kind="response", is_malformed=True),)
        if isinstance(response, ResponsesAPIResponse):
            with suppress(WireError):
                events = tuple(Reader().read_full(response))
        return Chunk.from_wire(response, events)

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        """Returns a copy of `response` with just `events`, its id, model and usage."""
        if not isinstance(response, ResponsesAPIResponse):
            response = self._make_template()
        template = full_template(response, events)
        writer = Writer(lambda: template)
        writer.write_changed(events)
        changes: dict[str, object] = {}
        reason = next((event.reason for event in events if isinstance(event, Finish)), None)
        if reason == self.rules.stop_reason and template.status != reason:
            changes = {"status": reason, "incomplete_details": None, "error": None}
        return writer.response(template.model_copy(update=changes))

    def _template(self) -> ResponsesAPIResponse:
        """Returns a new response with the id of the provider's, if that has one: clients stop at a second id."""
        template, id = self._make_template(), self._reader.response_id
        return template if id is None else template.model_copy(update={"id": id})
