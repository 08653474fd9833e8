"""Server-sent events: splits bytes into frames, reads the data of a frame, writes frames."""

_BLANK_LINES = (b"\n", b"\r\n", b"\r")
_LINE_ENDS = (b"\n", b"\r")
_LINE_FEED, _CARRIAGE_RETURN = b"\n\r"  # as numbers, which are found much faster
_DATA = (b"data", b"\xef\xbb\xbfdata")  # a stream may begin with a byte order mark


class SseDecoder:
    """Splits a stream of bytes, cut anywhere, into frames with the blank line at their end.

    Loses no byte, and looks at each a fixed number of times.
    """

    def __init__(self) -> None:
        self._lines: list[bytes] = []  # of the incomplete frame
        self._line: list[bytes] = []  # pieces of the incomplete line
        self._carry = b""  # a carriage return: a line feed may follow

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the frames that `data` completes."""
        if not (self._lines or self._line or self._carry) and (frames := _plain_frames(data)):
            return frames
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

    def flush(self) -> list[bytes]:
        """Returns the remaining frames; the last one may be incomplete."""
        last = b"".join([*self._line, self._carry])
        frames = self._frames([last] if last else [])
        rest = self._lines
        self._lines, self._line, self._carry = [], [], b""
        return [*frames, b"".join(rest)] if rest else frames

    def _frames(self, lines: list[bytes]) -> list[bytes]:
        frames: list[bytes] = []
        for line in lines:
            self._lines.append(line)
            if line in _BLANK_LINES:
                frames.append(b"".join(self._lines))
                self._lines = []
        return frames


def _plain_frames(data: bytes) -> list[bytes] | None:
    """Returns the frames of `data` if all are complete and end their lines with line feeds, as nearly all data does."""
    if _CARRIAGE_RETURN in data:
        return None
    if 0 < data.find(b"\n\n") == len(data) - 2 and data[0] != _LINE_FEED:
        return [data]
    *lines, rest = data.split(b"\n\n")
    if rest:
        return None
    frames = [each + b"\n\n" for each in lines if each and not each.startswith(b"\n")]
    return frames if len(frames) == len(lines) else None  # otherwise there are stray blank lines


def is_ended(frame: bytes) -> bool:
    """Returns whether `frame` has the blank line at its end."""
    return frame.splitlines(keepends=True)[-1] in _BLANK_LINES


def data_of(frame: bytes) -> str:
    """Returns the data of a frame, "" if it has none (a comment, a stray blank line)."""
    lines = (line.partition(b":") for line in frame.splitlines())
    data = [value.removeprefix(b" ").decode("utf-8", errors="replace") for name, _, value in lines if name in _DATA]
    return "\n".join(data)


def write_frame(data: str, event: str | None = None) -> bytes:
    """Returns a frame with `data`, and with the name of its `event` if it has one."""
    head = "" if event is None else f"event: {event}\n"
    return (head + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n").encode()
