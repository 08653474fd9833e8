"""Chat completions as LiteLLM hands them to a plugin: `ModelResponseStream` chunks, `ModelResponse`."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from litellm.types.utils import ModelResponse, ModelResponseStream

from luthien_litellm_hooks.adapters import chat_full, chat_stream
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, Finish, StreamEvent


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

    def decode(self, raw: object) -> Sequence[Chunk]:
        """One chunk: every item of such a stream is whole."""
        if not isinstance(raw, ModelResponseStream):
            raise WireError(f"a chat stream brought a {type(raw).__name__}")
        self._latest = raw
        return (Chunk.from_wire(raw, tuple(chat_stream.read(raw))),)

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
        return Chunk.from_wire(response, tuple(chat_full.read(_full(response))))

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay."""
        return chat_full.write(events, like=_full(response))

    def _like(self, chunk: Chunk | None) -> ModelResponseStream:
        if chunk is not None and isinstance(chunk.raw, ModelResponseStream):
            return chunk.raw
        if self._latest is None:
            self._latest = self._own()
        return self._latest


def _full(response: object) -> ModelResponse:
    if not isinstance(response, ModelResponse):
        raise WireError(f"a chat completion was a {type(response).__name__}")
    return response


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
