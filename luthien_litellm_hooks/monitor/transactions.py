"""Stored transactions: a row of LiteLLM's spend logs, and the plugin's record in it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from luthien_litellm_hooks.engine.rehearsal import Recorded
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.decision import Identity
from luthien_litellm_hooks.recording.record import KEY, SLOT
from luthien_litellm_hooks.wire import FORMATS


def _in_utc(time: datetime) -> datetime:
    """Sets the time zone: PostgreSQL's column has none, and LiteLLM writes UTC."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


class Stored(BaseModel):
    """Base of stored data. Fields unknown to this version stay in its JSON."""

    model_config = ConfigDict(frozen=True, extra="allow")


class PolicyVersion(Stored):
    name: str
    version: str | None = None


class Block(Stored):
    """A block of a response, or the block of a decision. A call `is_refused` if the person at the agent refused it, as
    told by the agent's own transcript."""

    type: str
    choice: int = 0
    text: str = ""
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    is_refused: bool = False


class Approval(Stored):
    """Part of a person in a decision. `message` and `arguments` are theirs, None if the texts are not stored."""

    id: str | None = None
    state: str
    by: str | None = None
    waited_ms: float = 0.0
    edited: bool = False
    grant: str | None = None
    message: str | None = None
    arguments: str | None = None


class _Priced(Stored):
    """Something with model calls of its own. `cost` is in US dollars."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    @property
    def spent(self) -> "Spent | None":
        """Model calls for it, if there were any."""
        return Spent(calls=self.calls, tokens=self.tokens, cost=self.cost) if self.calls else None


class Decision(_Priced):
    policy: str
    action: str
    block: Block | None = None
    reason: str | None = None
    score: float | None = None
    milliseconds: float | None = None
    error: str | None = None
    is_vote: bool = False
    message: str | None = None
    evidence: str | None = None
    approval: Approval | None = None


class Response(Stored):
    content: tuple[Block, ...] = ()
    finish_reason: str | None = None
    is_truncated: bool = False


class Side(Stored):
    """The texts before or after the policies. A final `request` is None if it left as it came."""

    request: dict[str, Any] | None = {}
    answer: Response = Response()


class Changed(Stored):
    request: bool = False
    answer: bool = False


class Chunks(Stored):
    ingress: int = 0
    egress: int = 0


class Caller(Stored):
    """The caller, by ids and aliases."""

    key_hash: str | None = None
    key_alias: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    team_alias: str | None = None
    org_id: str | None = None
    end_user_id: str | None = None


class Failure(Stored):
    """Error of the provider. `message` is None if the texts are not stored."""

    kind: str
    message: str | None = None


class Spent(Stored):
    """Model calls of the policies. `cost` is in US dollars."""

    calls: int
    tokens: int
    cost: float


class Observed(Stored):
    """Judgement of a policy that only observed. Without an outcome, `error` says why it could not judge."""

    policy: str
    version: str | None = None
    outcome: str | None = None
    changed: Changed = Changed()
    decisions: tuple[Decision, ...] = ()
    milliseconds: float = 0.0
    error: str | None = None
    cost: float = 0.0


class AskedAgain(_Priced):
    """Second call of the model, after a response with withheld calls alone; `decisions` are about the second."""

    tools: tuple[str, ...] = ()
    result: str
    reason: str | None = None
    decisions: tuple[Decision, ...] = ()
    milliseconds: float = 0.0


class Record(Stored):
    """The plugin's record. `original` and `final` are None if the texts are not stored. `sealed` is the whole record,
    encrypted; None if the record is open. `observed` is a reason if no policy could observe. `path` is the client's; it
    and `identity` are None in records of format 1. `headers` are those that a `when` names."""

    transaction_id: str
    path: str | None = None
    session: str | None = None
    headers: Mapping[str, str] = Field(default_factory=dict[str, str])
    identity: Caller | None = None
    policies: tuple[PolicyVersion, ...] = ()
    outcome: str | None = None
    decisions: tuple[Decision, ...] = ()
    observed: tuple[Observed, ...] | str | None = None
    asked_again: AskedAgain | None = None
    changed: Changed = Changed()
    chunks: Chunks = Chunks()
    milliseconds: float | None = None
    original: Side | None = None
    final: Side | None = None
    error: Failure | None = None
    spent: Spent | None = None
    sealed: str | None = None

    @property
    def sides(self) -> tuple[Side, Side] | None:
        """The texts before and after the policies."""
        return None if self.original is None or self.final is None else (self.original, self.final)

    @property
    def tools(self) -> set[str]:
        """Names of the tools that the response called, and of those that a decision is about."""
        responses = [side.answer.content for side in self.sides or ()]
        decided = [decision.block for decision in self.decisions if decision.block is not None]
        return {block.name for block in (*decided, *(one for content in responses for one in content)) if block.name}

    @property
    def is_closed(self) -> bool:
        """Tells if only the clear part of the record is available."""
        return "sealed" in self.model_fields_set

    @property
    def is_without_rest(self) -> bool:
        """Tells if the proxy had no key to seal the rest of the record with."""
        return self.is_closed and self.sealed is None


class Transaction(Stored):
    """One row of the spend logs. `record` is None if the plugin wrote none."""

    response_id: str
    call_id: str | None
    time: Annotated[datetime, AfterValidator(_in_utc)]
    route: str
    model: str
    model_group: str | None
    key_hash: str
    key_alias: str | None
    team_id: str | None = None
    team_alias: str | None = None
    record: Record | None

    @property
    def transaction_id(self) -> str | None:
        return self.record.transaction_id if self.record else None

    @property
    def path(self) -> str:
        """Path of the client's request; in older records the usual path of the kind of call."""
        wire = FORMATS.of_call_type(self.route)
        usual = wire.paths[0] if wire is not None else self.route
        return (self.record.path if self.record else None) or usual


def recorded(transaction: Transaction, record: Record) -> Recorded | None:
    """Returns the client's request and the provider's response for a rehearsal; None if their texts are not stored."""
    if record.original is None:
        return None
    wire = FORMATS.of_call_type(transaction.route) or FORMATS["chat"]
    who = record.identity or Caller(
        key_alias=transaction.key_alias, team_id=transaction.team_id, team_alias=transaction.team_alias
    )
    names = [name for name in (transaction.model, transaction.model_group) if name]
    answer = record.original.answer
    body = record.original.request or (record.final.request if record.final else None)
    return Recorded(
        transaction_id=record.transaction_id,
        request=Request(
            body or {},
            route=transaction.path,
            headers=record.headers,
            session=record.session,
            models=tuple(names),
        ),
        content=[{"text": "", "arguments": "", **block.model_dump(exclude_unset=True)} for block in answer.content],
        finish_reason=answer.finish_reason,
        rules=wire.rules,
        identity=Identity(**{name: getattr(who, name) for name in Caller.model_fields}),
    )


def read_transaction(row: Mapping[str, Any]) -> Transaction:
    """Reads a row of `LiteLLM_SpendLogs`. Raises `ConfigError` if its form is unknown."""
    metadata = _members(row.get("metadata"))
    try:
        return Transaction.model_validate(
            {
                "response_id": row.get("request_id"),
                "call_id": row.get("litellm_call_id"),
                "time": row.get("startTime"),
                "route": row.get("call_type"),
                "model": row.get("model"),
                "model_group": row.get("model_group"),
                "key_hash": row.get("api_key"),
                "key_alias": metadata.get("user_api_key_alias"),
                "record": _members(metadata.get(SLOT)).get(KEY),
                **{name: team for name in ("team_id", "team_alias") if (team := metadata.get(f"user_api_key_{name}"))},
            }
        )
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(
            f"The row {row.get('request_id')} has a form that this version cannot read: {where}"
        ) from None


def _members(value: object) -> Mapping[str, Any]:
    """Returns a JSON object, which may have been stored as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}
