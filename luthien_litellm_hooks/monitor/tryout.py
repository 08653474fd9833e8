"""Try-out of a shipped policy on recorded transactions, within the proxy.

Its settings come from a page: they name no address, no key and no variable of the host, and they are small. Nothing is
delivered, and the policy in force stays as it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, cast

import yaml

from luthien_litellm_hooks.engine.composition import members_of
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.engine.rehearsal import Recorded, rehearse
from luthien_litellm_hooks.errors import ConfigError, JudgeError, NotReplayableError, WireError
from luthien_litellm_hooks.monitor.comparison import Change, Judged, compare
from luthien_litellm_hooks.monitor.transactions import Record, Transaction, recorded
from luthien_litellm_hooks.monitor.words import HOW_TO_STORE, spent_words
from luthien_litellm_hooks.policies import SHORT_NAMES
from luthien_litellm_hooks.policy.llm_client import Question, answered_by

NAMES: Sequence[str] = tuple(name for name in SHORT_NAMES if name != "debug_logging")  # it writes to the log
"""Policies that can be tried."""
MOST_TRANSACTIONS = 20
DEADLINE_S = 30.0
"""Time for all transactions of a try-out."""
_MOST_CALLS = 100
"""Calls of models in a try-out."""
_LONGEST_SETTINGS = 20_000
_LONGEST_TEXT = 2_000
"""Characters of one text in the settings: a replacement may be written a thousand times."""
_DEEPEST = 30
_LARGEST = 300_000
"""Characters of a transaction's request and response."""
_OF_THE_HOST = ("api_base", "api_key")
_ENVIRONMENT = "os.environ/"

Build = Callable[[str, Mapping[str, Any]], PolicyExecutor]
"""Builder of a policy with its settings, by its short name. Raises `ConfigError`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on a block of the response, or on the request: the recorded one, and that of the tried policy."""

    kind: str
    name: str
    text: str
    before: Judged
    after: Judged
    change: Change


@dataclass(frozen=True, slots=True)
class Tried:
    """Result of one transaction. Without verdicts `problem` says why."""

    transaction_id: str
    time: datetime
    outcome: str | None = None
    verdicts: Sequence[Verdict] = ()
    milliseconds: float = 0.0
    spent: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Tryout:
    """Results of a policy, with its version, and its lines for the configuration."""

    policy: str
    version: str
    yaml: str
    tried: Sequence[Tried]


def read_settings(text: str) -> Mapping[str, Any]:
    """Reads the settings of a policy from YAML. Raises `ConfigError` for what a page may not set."""
    if len(text) > _LONGEST_SETTINGS:
        raise ConfigError(f"The settings are longer than {_LONGEST_SETTINGS:,} characters.")
    try:
        settings: object = _PlainLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date, or a long number
        raise ConfigError(f"The settings are not YAML that can be used here: {error}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(
        isinstance(name, str) for name in cast(dict[object, object], settings)
    ):
        raise ConfigError("The settings should be names with values, such as `replacements: [[a, b]]`.")
    _check(cast(dict[str, Any], settings))
    return cast(dict[str, Any], settings)


class _PlainLoader(yaml.SafeLoader):
    """Loader of YAML without references, which can make a few lines large, and not deeper than needed."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = cast(Any, self).peek_event()
        if event.anchor is not None:  # of an alias, too
            raise yaml.YAMLError("anchors and aliases are not read here")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _check(settings: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for settings that reach the host's secrets, or an address of the visitor's choice."""
    pending: list[object] = [settings]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            members = cast(dict[object, object], value)
            _check_judge(members)
            pending += chain.from_iterable(members.items())
        elif isinstance(value, list):
            pending += cast(list[object], value)
        elif isinstance(value, str):
            if _ENVIRONMENT in value:
                raise ConfigError("The settings name a variable of the proxy's, which is not read here.")
            if len(value) > _LONGEST_TEXT:
                raise ConfigError(f"The settings have a text of more than {_LONGEST_TEXT:,} characters.")
        elif not isinstance(value, int | float | None):
            raise ConfigError(f"The settings have a {type(value).__name__}, which no policy takes: put it in quotes.")


def _check_judge(members: Mapping[object, object]) -> None:
    """Raises `ConfigError` unless these settings, if they are a judge's, name one of the proxy's own models."""
    for name in _OF_THE_HOST:
        if name in members:
            raise ConfigError(f"`{name}` cannot be set here: a judge asks one of the proxy's own models.")
    models = [str(members[name]) for name in ("model", "models") if name in members]
    if models and members.get("model_group") is not True:
        raise ConfigError("A judge asks one of the proxy's own models here: set `model_group: true` beside `model`.")
    if any("://" in model for model in models):  # LiteLLM takes an address as the name of some models
        raise ConfigError("`model` should be a name in the proxy's `model_list`.")


async def try_out(build: Build, name: str, settings: Mapping[str, Any], transactions: Sequence[Transaction]) -> Tryout:
    """Judges the transactions with the policy called `name`. Raises `ConfigError` if it cannot be built.

    The deadline counts for all: transactions after it have a problem.
    """
    if name not in NAMES:
        raise ConfigError(f"The policy is one of {', '.join(NAMES)}.")
    executor = await asyncio.to_thread(build, name, settings)
    [member] = members_of(executor.composition)
    until = asyncio.get_running_loop().time() + DEADLINE_S
    with answered_by(_Bounded()):
        tried = [await _try(executor, one, until) for one in transactions[:MOST_TRANSACTIONS]]
    spec = {"policy": {"class": name, **({"config": dict(settings)} if settings else {})}}
    return Tryout(name, member.version, yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), tried)


class _Bounded:
    """Replies of the models themselves, up to a number."""

    def __init__(self) -> None:
        self._asked = 0

    async def reply(self, question: Question, ask: Callable[[], Awaitable[Any]]) -> Any:
        self._asked += 1
        if self._asked > _MOST_CALLS:
            raise JudgeError(f"a try-out makes no more than {_MOST_CALLS} calls of models")
        return await ask()


async def _try(executor: PolicyExecutor, transaction: Transaction, until: float) -> Tried:
    record = transaction.record
    made = Tried(transaction.transaction_id or transaction.response_id, transaction.time)
    given = None if record is None else recorded(transaction, record)
    if record is None or given is None:
        return _with(made, "The record stays closed." if record is not None and record.is_closed else HOW_TO_STORE)
    if _characters(given) > _LARGEST:
        return _with(made, "It is too large to be tried here: use `luthien-hooks try --record`.")
    try:
        async with asyncio.timeout_at(until):
            done = await rehearse(executor, given)
    except TimeoutError:
        return _with(made, f"The {DEADLINE_S:g} s of a try-out were over.")
    except (NotReplayableError, WireError, RecursionError) as error:
        return _with(made, f"It cannot be judged again: {error}.")
    after = Record.model_validate(done.record())
    compared = compare(record, record, after).compared
    return Tried(
        made.transaction_id,
        made.time,
        outcome=after.outcome,
        verdicts=[
            Verdict(
                "request" if one.block is None else one.block.type,
                one.about,
                "" if one.block is None else one.block.text or one.block.arguments,
                one.before,
                one.after,
                one.change,
            )
            for one in compared
        ],
        milliseconds=done.seconds * 1000,
        spent=None if after.spent is None else spent_words(after.spent),
    )


def _with(tried: Tried, problem: str) -> Tried:
    return Tried(tried.transaction_id, tried.time, problem=problem)


def _characters(given: Recorded) -> int:
    """Returns the number of characters of the texts."""
    count, pending = 0, list[object]([given.request.body, *given.content])
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, Mapping):
            pending += cast(Mapping[object, object], value).values()
        elif isinstance(value, list):
            pending += cast(list[object], value)
    return count
