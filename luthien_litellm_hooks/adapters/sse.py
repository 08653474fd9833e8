"""Server-sent events: frames out of bytes, however these are cut, and bytes out of what a frame says."""

_BLANK_LINES = (b"\n", b"\r\n", b"\r")
_LINE_ENDS = (b"\n", b"\r")
_DATA = (b"data", b"\xef\xbb\xbfdata")  # a stream may begin with a byte order mark


class SseDecoder:
    """Finds the frames in bytes that come in any pieces: all bytes of each, the blank line that ends it included.
    No byte is lost, and each is looked at a fixed number of times."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []  # of the frame that is not complete
        self._line: list[bytes] = []  # the pieces of the line that is not complete
        self._carry = b""  # a carriage return, which a line feed may follow

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes."""
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
        """The frames in what is left; the last one may lack its end."""
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
    """The frames in `data` if it is, as nearly all that comes, nothing but whole ones whose lines end in line feeds."""
    *lines, rest = data.split(b"\n\n")
    if rest or b"\r" in data:
        return None
    frames = [each + b"\n\n" for each in lines if each and not each.startswith(b"\n")]
    return frames if len(frames) == len(lines) else None  # otherwise there are stray blank lines


def is_ended(frame: bytes) -> bool:
    """Whether the blank line has come that ends `frame`."""
    return frame.splitlines(keepends=True)[-1] in _BLANK_LINES


def data_of(frame: bytes) -> str:
    """What a frame says; "" where that is nothing (a comment, a stray blank line)."""
    named = (line.partition(b":") for line in frame.splitlines())
    said = [value.removeprefix(b" ").decode("utf-8", errors="replace") for name, _, value in named if name in _DATA]
    return "\n".join(said)


def write_frame(data: str, event: str | None = None) -> bytes:
    """The bytes of a frame that says `data`, under the name of an `event` if it has one."""
    head = "" if event is None else f"event: {event}\n"
    return (head + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n").encode()
