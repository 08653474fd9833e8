"""Server-sent events: frames out of bytes, however these are cut, and bytes out of what a frame says."""

from typing import NamedTuple

_BLANK_LINES = (b"\n", b"\r\n", b"\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseFrame(NamedTuple):
    """One event of a stream. `raw` is all of its bytes, the blank line that ends it included;
    `data` is "" where there is none (a comment, a stray blank line)."""

    raw: bytes
    event: str | None
    data: str


class SseDecoder:
    """Finds the frames in bytes that come in any pieces. No byte is lost, and each is looked at a
    fixed number of times."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []  # of the frame that is not complete
        self._line: list[bytes] = []  # the pieces of the line that is not complete
        self._carry = b""  # a carriage return, which a line feed may follow

    def feed(self, data: bytes) -> list[SseFrame]:
        """The frames that `data` completes."""
        data = self._carry + data
        self._carry = b"\r" if data.endswith(b"\r") else b""
        frames: list[SseFrame] = []
        for piece in data.removesuffix(b"\r").splitlines(keepends=True):
            frames += self._add(piece)
        return frames

    def flush(self) -> list[SseFrame]:
        """The frames in what is left; the last one may lack its end."""
        frames = [*self._add(self._carry)] if self._carry else []
        rest = [*self._lines, b"".join(self._line)]
        self._lines, self._line, self._carry = [], [], b""
        return [*frames, _frame(rest)] if any(rest) else frames

    def _add(self, piece: bytes) -> tuple[SseFrame, ...]:
        if not piece.endswith((b"\n", b"\r")):
            self._line.append(piece)
            return ()
        line = b"".join([*self._line, piece]) if self._line else piece
        self._line.clear()
        self._lines.append(line)
        if line not in _BLANK_LINES:
            return ()
        lines, self._lines = self._lines, []
        return (_frame(lines),)


def _frame(lines: list[bytes]) -> SseFrame:
    event: str | None = None
    data: list[str] = []
    for line in lines:
        name, _, value = line.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r\n").partition(b":")
        if name == b"data":
            data.append(_text(value))
        elif name == b"event":
            event = _text(value)
    return SseFrame(b"".join(lines), event, "\n".join(data))


def _text(value: bytes) -> str:
    return value.removeprefix(b" ").decode("utf-8", errors="replace")


def write_frame(data: str, event: str | None = None) -> bytes:
    """The bytes of a frame that says `data`, under the name of an `event` if it has one."""
    head = "" if event is None else f"event: {event}\n"
    return (head + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n").encode()
