"""Texts that stand beside each other, such as those of a tool's result: each is judged like a block of an answer."""

from collections.abc import Iterable, Sequence
from typing import cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, Finish, Frame, StreamEvent, TextDelta, from_wire

Texts = Sequence[str | None]


class TextsAdapter:
    """The answer is a list of texts. One of which nothing is let out becomes None; what is said beside them
    stands behind them."""

    is_framed = True
    has_text_after_calls = False
    stop_reason = "texts"
    tool_reasons = ("call",)
    cut_reasons = ()

    def decode(self, raw: object) -> Sequence[Chunk]:
        raise WireError("texts are not streamed")

    def flush(self) -> Sequence[Chunk]:
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        raise WireError("texts are not streamed")

    def split(self, response: object) -> Chunk:
        texts = cast(Texts, response)
        events = [event for index, text in enumerate(texts) if text for event in _read(text, index)]
        return Chunk.from_wire(response, (*events, from_wire(Finish(reason="texts"), response)))

    def join(self, response: object, events: Sequence[StreamEvent]) -> list[str | None]:
        came = cast(Texts, response)
        texts: list[str | None] = [None if text else text for text in came]
        for event in events:
            if isinstance(event, TextDelta):
                index = len(came) if event.index is None else event.index
                texts += [None] * (index + 1 - len(texts))
                texts[index] = (texts[index] or "") + event.text
        return texts


def _read(text: str, index: int) -> Iterable[StreamEvent]:
    return (
        from_wire(Frame(role="begin", kind="text", index=index), text),
        from_wire(TextDelta(index=index, text=text), text),
        from_wire(Frame(role="end", kind="text", index=index), text),
    )
