"""Chat completions as LiteLLM hands them to a plugin: `ModelResponseStream` chunks, `ModelResponse`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from litellm.types.utils import Choices, ModelResponse, ModelResponseStream

from luthien_litellm_hooks.adapters import chat_full, chat_stream
from luthien_litellm_hooks.adapters.chat_calls import UnknownCalls
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, Finish, StreamEvent, Unknown


class ChatAdapter:
    """The adapter of one chat completion.

    `own` makes what chunks are made like if the provider has sent none: few answers need it.
    """

    is_framed = False
    has_text_after_calls = True
    stop_reason = "stop"
    tool_reasons = ("tool_calls", "function_call")
    cut_reasons = ("length",)

    def __init__(self, own: Callable[[], ModelResponseStream]) -> None:
        self._own = own
        self._latest: ModelResponseStream | None = None
        self._unknown_calls: UnknownCalls = set()
        self._split: Chunk | None = None

    def decode(self, raw: object) -> Sequence[Chunk]:
        """One chunk: every item of such a stream is whole."""
        if not isinstance(raw, ModelResponseStream):
            return (_malformed(raw),)
        self._latest = raw
        try:
            return (Chunk.from_wire(raw, tuple(chat_stream.read(raw, self._unknown_calls))),)
        except WireError:
            return (_malformed(raw),)

    def flush(self) -> Sequence[Chunk]:
        """Nothing: `decode` keeps nothing back."""
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """One chunk for the rest of a chunk that came; a finish of a policy's own has its own."""
        if of is not None:
            yield chat_stream.write(events, like=self._like(of))
            return
        for group in _finish_apart(events):
            yield chat_stream.write(group, like=self._like(None))

    def split(self, response: object) -> Chunk:
        """The events of every choice, one delta a block."""
        self._split = _malformed(response)
        if isinstance(response, ModelResponse):
            with suppress(WireError):
                self._split = Chunk.from_wire(response, tuple(chat_full.read(response)))
        return self._split

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay. One that cannot be read stays out."""
        came = self._split if self._split is not None and self._split.raw is response else self.split(response)
        like = response if isinstance(response, ModelResponse) and not _is_malformed(came) else self._unread(response)
        return chat_full.write(events, like, came.events)

    def _unread(self, response: object) -> ModelResponse:
        if isinstance(response, ModelResponse):
            return response.model_copy(update={"choices": [Choices()]})
        own = self._like(None)
        return ModelResponse(id=own.id, model=own.model, choices=[Choices()])

    def _like(self, chunk: Chunk | None) -> ModelResponseStream:
        if chunk is not None and isinstance(chunk.raw, ModelResponseStream):
            return chunk.raw
        if self._latest is None:
            self._latest = self._own()
        return self._latest


def _malformed(raw: object) -> Chunk:
    return Chunk.from_wire(raw, (Unknown(kind="chat completion", is_malformed=True),))


def _is_malformed(chunk: Chunk) -> bool:
    return any(isinstance(event, Unknown) and event.is_malformed for event in chunk.events)


def _finish_apart(events: Iterable[StreamEvent]) -> Iterator[list[StreamEvent]]:
    group: list[StreamEvent] = []
    for event in events:
        if isinstance(event, Finish):
            if group:
                yield group
            yield [event]
            group = []
        else:
            group.append(event)
    if group:
        yield group
