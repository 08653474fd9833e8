"""Server-sent events: frames out of bytes, however these are cut, and bytes out of what a frame says."""

from typing import NamedTuple

_BLANK_LINES = (b"\n", b"\r\n", b"\r")
_LINE_ENDS = (b"\n", b"\r")
_DATA = (b"data", b"\xef\xbb\xbfdata")  # a stream may begin with a byte order mark


class SseFrame(NamedTuple):
    """One event of a stream. `raw` is all of its bytes, the blank line that ends it included;
    `data` is "" where there is none (a comment, a stray blank line)."""

    raw: bytes
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
        lines = data.removesuffix(b"\r").splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith(_LINE_ENDS) else b""
        if lines and self._line:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line.clear()
        if rest:
            self._line.append(rest)
        return self._frames(lines)

    def flush(self) -> list[SseFrame]:
        """The frames in what is left; the last one may lack its end."""
        last = b"".join([*self._line, self._carry])
        frames = self._frames([last] if last else [])
        rest = self._lines
        self._lines, self._line, self._carry = [], [], b""
        return [*frames, _frame(rest)] if rest else frames

    def _frames(self, lines: list[bytes]) -> list[SseFrame]:
        frames: list[SseFrame] = []
        for line in lines:
            self._lines.append(line)
            if line in _BLANK_LINES:
                frames.append(_frame(self._lines))
                self._lines = []
        return frames


def _frame(lines: list[bytes]) -> SseFrame:
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name in _DATA:
            data.append(value.rstrip(b"\r\n").removeprefix(b" ").decode("utf-8", errors="replace"))
    return SseFrame(b"".join(lines), "\n".join(data))


def write_frame(data: str, event: str | None = None) -> bytes:
    """The bytes of a frame that says `data`, under the name of an `event` if it has one."""
    head = "" if event is None else f"event: {event}\n"
    return (head + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n").encode()
