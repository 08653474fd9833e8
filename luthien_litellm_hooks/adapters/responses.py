"""Responses as LiteLLM hands them to a plugin: events of `/v1/responses`, `ResponsesAPIResponse`."""

from collections.abc import Callable, Iterable, Sequence

from litellm.types.llms.openai import ResponsesAPIResponse

from luthien_litellm_hooks.adapters.responses_guards import full_as_it_may_leave
from luthien_litellm_hooks.adapters.responses_read import Reader
from luthien_litellm_hooks.adapters.responses_write import Writer
from luthien_litellm_hooks.events import Chunk, Finish, StreamEvent, Unknown


class ResponsesAdapter:
    """The adapter of one response.

    `own` makes what a response is made like if the provider has sent none: few answers need it.
    """

    is_framed = True
    has_text_after_calls = True
    stop_reason = "completed"
    tool_reasons = ("completed",)
    cut_reasons = ("incomplete",)

    def __init__(self, own: Callable[[], ResponsesAPIResponse]) -> None:
        self._own = own
        self._reader = Reader()
        self._writer = Writer(own)

    def decode(self, raw: object) -> Sequence[Chunk]:
        """One chunk."""
        return (Chunk.from_wire(raw, self._reader.read(raw)),)

    def flush(self) -> Sequence[Chunk]:
        """The actions that never were whole."""
        rest = tuple(self._reader.read_rest())
        return (Chunk.from_wire(rest, rest),) if rest else ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """The units that say `events`; what they repeat is what has left."""
        return self._writer.apart(events)

    def pass_on(self, chunk: Chunk, *, as_came: bool) -> Iterable[object]:
        """The unit that came, or what has become of it; after what was held back until it came."""
        if not as_came or self._writer.is_own:
            return self._writer.whole(chunk.events)
        self._writer.left(chunk.raw, chunk.events)
        return () if chunk.raw is chunk.events else (chunk.raw,)

    def split(self, response: object) -> Chunk:
        """The events of every item, one delta a block."""
        if not isinstance(response, ResponsesAPIResponse):
            return Chunk.from_wire(response, (Unknown(kind="response", is_malformed=True),))
        return Chunk.from_wire(response, tuple(Reader().read_full(response)))

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay."""
        if not isinstance(response, ResponsesAPIResponse):
            response = self._own()
        like = full_as_it_may_leave(response, events)
        writer = Writer(lambda: like)
        writer.apart(events)
        changes: dict[str, object] = {}
        reason = next((event.reason for event in events if isinstance(event, Finish)), None)
        if reason == self.stop_reason and like.status != reason:
            changes = {"status": reason, "incomplete_details": None, "error": None}
        return writer.response(like.model_copy(update=changes))
