"""Replies of judges in a replay: of the model, from a file of earlier replies, or out of the record."""

import asyncio
import json
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from luthien_litellm_hooks.errors import ConfigError, JudgeError
from luthien_litellm_hooks.monitor.transactions import Decision, Record
from luthien_litellm_hooks.policy.llm_client import Question, answered_by, earlier_reply, spent_on
from luthien_litellm_hooks.wire.format import json_object

Response = Any
"""LiteLLM's `ModelResponse`."""
Judges = Literal["live", "cached", "recorded"]
_RATING = {"probability", "explanation"}


@dataclass(frozen=True, slots=True)
class Reply:
    """Earlier reply of a model. `number` counts the replies to one question of one transaction from 0."""

    key: str
    number: int
    model: str
    text: str
    finish_reason: str
    tokens: int
    cost: float
    milliseconds: float


class JudgeReplies:
    """Replies for all transactions of a replay, and their number.

    `live` asks the model. `cached` asks it once for each question and keeps the replies in the file. `recorded` takes
    the score that the record has of the same policy: `versions` are its versions by name, and no model is asked.
    """

    def __init__(self, judges: Judges, cache: Path | None, versions: Mapping[str, Collection[str]]) -> None:
        if (judges == "cached") != (cache is not None):
            raise ConfigError("--judges cached needs --cache FILE, where it keeps replies; the other ways have none.")
        self.judges: Judges = judges
        self.versions = versions
        self.asked = self.reused = 0
        self.cost = 0.0
        self._cache = cache
        self._known = {} if cache is None else _read(cache)
        self._locks = defaultdict[tuple[str, int], asyncio.Lock](asyncio.Lock)

    def of(self, record: Record) -> "TransactionReplies":
        """Returns the replies for one transaction."""
        return TransactionReplies(self, record)

    async def ask(self, ask: Callable[[], Awaitable[Response]]) -> Response:
        response = await ask()
        self.asked += 1
        self.cost += spent_on(response).cost
        return response

    async def cached(self, key: str, number: int, ask: Callable[[], Awaitable[Response]]) -> Response:
        """Returns the known reply, or asks for it and keeps it."""
        async with self._locks[key, number]:
            found = self._known.get((key, number))
            if found is not None:
                self.reused += 1
                return earlier_reply(
                    found.text,
                    model=found.model,
                    finish_reason=found.finish_reason,
                    tokens=found.tokens,
                    cost=found.cost,
                )
            began = monotonic()
            response = await self.ask(ask)
            self._keep(key, number, response, (monotonic() - began) * 1000)
            return response

    def _keep(self, key: str, number: int, response: Response, milliseconds: float) -> None:
        choice = response.choices[0]
        if self._cache is None or len(response.choices) != 1 or not isinstance(choice.message.content, str):
            return
        spent = spent_on(response)
        reply = Reply(
            key,
            number,
            response.model or "",
            choice.message.content,
            choice.finish_reason,
            spent.tokens,
            spent.cost,
            round(milliseconds, 3),
        )
        self._known[key, number] = reply
        with open(self._cache, "a", encoding="utf-8", opener=private) as file:
            file.write(json.dumps(asdict(reply)) + "\n")


class TransactionReplies:
    """Replies for the policies that judge one transaction. `missing` is the reason for a missing reply: then a policy's
    failure says nothing about the policy."""

    def __init__(self, of_all: JudgeReplies, record: Record) -> None:
        self.missing: str | None = None
        self._all = of_all
        self._record = record
        self._counts = Counter[str]()
        self._questions: dict[tuple[str, str], str] = {}

    def in_force(self) -> AbstractContextManager[None]:
        """Lets this answer the policies' calls."""
        return answered_by(self)

    async def reply(self, question: Question, ask: Callable[[], Awaitable[Response]]) -> Response:
        if self._all.judges == "recorded":
            return self._recorded(question)
        try:
            if self._all.judges == "live":
                return await self._all.ask(ask)
            key = key_of(question)
            self._counts[key] += 1
            return await self._all.cached(key, self._counts[key] - 1, ask)
        except Exception as error:
            self.missing = f"a judge gave no reply ({type(error).__name__})"
            raise

    def _recorded(self, question: Question) -> Response:
        try:
            score, explanation = self._score(question)
        except JudgeError as error:
            self.missing = str(error)
            raise
        self._all.reused += 1
        text = json.dumps({"probability": score, "explanation": explanation})
        return earlier_reply(text, model=question.request.model, finish_reason="stop", tokens=0, cost=0.0)

    def _score(self, question: Question) -> tuple[float, str]:
        """Returns the recorded score. Raises `JudgeError` if the record has none that surely answers the question."""
        policy = question.ctx.policy_name
        versions = [one.version for one in self._record.policies if one.name == policy]
        if len(versions) != 1 or versions[0] not in self._all.versions.get(policy, ()):
            raise JudgeError("the record has no score of the same judge")
        if question.schema is None or set(question.schema.get("properties", ())) != _RATING:
            raise JudgeError("a judge was asked for more than a score")
        instructions, document = (str(message["content"]) for message in question.request.messages)
        if self._questions.setdefault((policy, document), instructions) != instructions:
            raise JudgeError("a judge was asked several questions about one block, and the record has one score")
        found = self._decision_on(policy, json_object(document) or {})
        if found is None or found.score is None:
            raise JudgeError("the record has no score of this block")
        return found.score, found.evidence or ""

    def _decision_on(self, policy: str, shown: Mapping[str, Any]) -> Decision | None:
        """Returns the policy's decision about the block that a judge is shown."""
        content = () if self._record.original is None else self._record.original.answer.content
        scored = [one for one in self._record.decisions if one.policy == policy and one.score is not None]
        if shown.get("type") == "tool_call":
            same = [one for one in content if (one.name, one.arguments) == (shown.get("name"), shown.get("arguments"))]
            ids = {one.id for one in same if one.id is not None}
            found = [one for one in scored if one.block is not None and one.block.id in ids]
        else:
            same = [one for one in content if (one.type, one.text) == (shown.get("type"), shown.get("text"))]
            of_type = [one for one in content if one.type == shown.get("type") and one.text.strip()]
            found = [one for one in scored if one.block is not None and one.block.type == shown.get("type")]
            found = found if same and len(of_type) == 1 else []
        return found[0] if found else None


def key_of(question: Question) -> str:
    """Returns the digest of the model with its settings and address, the instructions and the document."""
    asked = {"body": question.request.body, "address": question.address}
    return sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def private(path: str, flags: int) -> int:
    """Opens a file, which only its user may read if it is new."""
    return os.open(path, flags, 0o600)


def _read(cache: Path) -> dict[tuple[str, int], Reply]:
    """Reads the replies of earlier replays. Raises `ConfigError`."""
    try:
        lines = cache.read_text(encoding="utf-8").splitlines() if cache.exists() else []
        replies = [Reply(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{cache} is no file of judges' replies: {error}") from None
    return {(reply.key, reply.number): reply for reply in replies}
