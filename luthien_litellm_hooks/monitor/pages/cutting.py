"""Texts of a model cut for a page, so that no page weighs much."""

_LEAST = 40


def cut(text: str, most: int = 300) -> str:
    """Returns the first characters of a text, and how many follow."""
    more = len(text) - most
    return text if more <= 0 else f"{text[:most]}[{more:,} more characters]"


class Cutter:
    """Cutter of all texts of one page, to a length that shrinks as the page fills."""

    def __init__(self, room: int, longest: int) -> None:
        self._room = room
        self._longest = longest

    def __call__(self, text: str) -> str:
        shown = cut(text, max(_LEAST, min(self._longest, self._room)))
        self._room -= len(shown)
        return shown

    def maybe(self, text: str | None) -> str | None:
        return None if text is None else self(text)
