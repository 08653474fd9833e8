"""Where events can go: a file of JSON lines, or a stream of Redis."""

import os
from collections.abc import Callable, Sequence
from typing import Protocol, cast

STDOUT = "-"
STREAM = "luthien:events"
STREAM_LENGTH = 100_000
TIMEOUT_S = 5.0


class JsonLinesSink:
    """Appends to a file, or to standard output, if the path is `-`. One write for each line, so that
    the lines of several workers do not mix.

    The file is opened anew each time: it may be moved away, or come back after its disk was full. A
    new one is readable by the proxy's user alone, since reasons are the operator's.
    """

    def __init__(self, path: str) -> None:
        self.name = "stdout" if path == STDOUT else "jsonl"
        self._path = path
        self._is_torn = False
        """The last line was cut short, as on a disk that is full: the next one begins anew."""

    def write(self, lines: Sequence[str]) -> int:
        is_stdout = self._path == STDOUT
        target = 1 if is_stdout else self._path
        with open(target, "ab", buffering=0, closefd=not is_stdout, opener=None if is_stdout else _private) as file:
            for count, line in enumerate(lines):
                try:
                    self._write_line(file.write, line)
                except OSError:
                    if count == 0:
                        raise
                    return count
        return len(lines)

    def _write_line(self, write: Callable[[bytes], int | None], line: str) -> None:
        whole = f"{chr(10) if self._is_torn else ''}{line}\n".encode()
        written = write(whole) or 0
        self._is_torn = self._is_torn if written == 0 else written < len(whole)
        if written < len(whole):
            raise OSError("a line was written in part, or not at all")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class RedisPipeline(Protocol):
    """What is used of a `redis.client.Pipeline`."""

    def execute_command(self, *arguments: str | int) -> object: ...
    def execute(self) -> object: ...


class RedisClient(Protocol):
    """What is used of a `redis.Redis`."""

    def pipeline(self, transaction: bool) -> RedisPipeline: ...


class RedisSink:
    """Adds each event to one stream, as its field `event`, and trims the stream to about `length`.

    `connect` is called at the first event, in the sink's own thread: LiteLLM makes its client after
    it has loaded us. An event may be there twice, if the connection was lost while it was added.
    """

    name = "redis"

    def __init__(self, connect: Callable[[], RedisClient], stream: str = STREAM, length: int = STREAM_LENGTH) -> None:
        self._connect = connect
        self._stream = stream
        self._length = length
        self._client: RedisClient | None = None

    def write(self, lines: Sequence[str]) -> int:
        if self._client is None:
            self._client = self._connect()
        pipeline = self._client.pipeline(transaction=False)
        for line in lines:
            pipeline.execute_command("XADD", self._stream, "MAXLEN", "~", self._length, "*", "event", line)
        pipeline.execute()
        return len(lines)


def redis_client(url: str) -> RedisClient:
    """A client that gives up soon, and leaves it to the publisher to try again."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  # redis-py leaves its **kwargs untyped
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
    return cast(RedisClient, client)
