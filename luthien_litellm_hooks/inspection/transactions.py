"""A transaction as LiteLLM's spend logs keep it: their row, and the plugin's record in it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from luthien_litellm_hooks.errors import ConfigError


def _in_utc(time: datetime) -> datetime:
    """PostgreSQL's column has no time zone: LiteLLM writes UTC."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


class Stored(BaseModel):
    """Something that was stored. What this version does not know stays in its JSON."""

    model_config = ConfigDict(frozen=True, extra="allow")


class PolicyVersion(Stored):
    name: str
    version: str | None = None


class Block(Stored):
    """A block of an answer, or what a decision is about."""

    type: str
    choice: int = 0
    text: str = ""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Decision(Stored):
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


class Answer(Stored):
    content: tuple[Block, ...] = ()
    finish_reason: str | None = None
    is_truncated: bool = False


class Side(Stored):
    """The texts as they came, or as they left."""

    request: dict[str, Any] = {}
    answer: Answer = Answer()


class Changed(Stored):
    request: bool = False
    answer: bool = False


class Chunks(Stored):
    ingress: int = 0
    egress: int = 0


class Failure(Stored):
    """What the provider failed with. `message` is None where the texts are not stored."""

    type: str
    message: str | None = None


class Record(Stored):
    """What the plugin wrote. `original` and `final` are None where the texts are not stored. `sealed` is the whole
    record, encrypted; None of one that is open."""

    transaction_id: str
    policies: tuple[PolicyVersion, ...] = ()
    outcome: str | None = None
    decisions: tuple[Decision, ...] = ()
    changed: Changed = Changed()
    chunks: Chunks = Chunks()
    milliseconds: float | None = None
    original: Side | None = None
    final: Side | None = None
    error: Failure | None = None
    sealed: str | None = None

    @property
    def is_closed(self) -> bool:
        """Whether only the clear part of the record is there."""
        return "sealed" in self.model_fields_set

    @property
    def is_without_rest(self) -> bool:
        """Whether the proxy had no key to seal the rest of the record with."""
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
    record: Record | None

    @property
    def transaction_id(self) -> str | None:
        return self.record.transaction_id if self.record else None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which transactions to list: those with all that is not None. A key is named by alias or hash."""

    outcome: str | None = None
    policy: str | None = None
    model: str | None = None
    key: str | None = None
    since: datetime | None = None

    def matches(self, transaction: Transaction) -> bool:
        """Whether the transaction has a record, and is as asked for."""
        record = transaction.record
        return (
            record is not None
            and self.outcome in (None, record.outcome)
            and self.policy in (None, *(policy.name for policy in record.policies))
            and self.model in (None, transaction.model, transaction.model_group)
            and self.key in (None, transaction.key_hash, transaction.key_alias)
            and (self.since is None or self.since <= transaction.time)
        )


class SpendLogs(Protocol):
    """A way to LiteLLM's spend logs. Both methods raise `ConfigError` if they cannot be read."""

    def find(self, wanted: str) -> Sequence[Transaction]:
        """The rows whose transaction, response or LiteLLM call has this id, at most a few."""
        ...

    def latest(self, chosen: Filter, limit: int) -> Sequence[Transaction]:
        """The transactions with a record, newest first."""
        ...


def read_transaction(row: Mapping[str, Any]) -> Transaction:
    """Reads a row of `LiteLLM_SpendLogs`. Raises `ConfigError` if it has another form."""
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
                "record": _members(metadata.get("spend_logs_metadata")).get("luthien"),
            }
        )
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(
            f"The row {row.get('request_id')} has a form that this version cannot read: {where}"
        ) from None


def may_be_ours(wanted: str) -> bool:
    """Whether the id looks like that of a transaction, for which the logs have no index."""
    try:
        UUID(wanted)
    except ValueError:
        return False
    return True


def best_matches(found: Sequence[Transaction], wanted: str) -> Sequence[Transaction]:
    """Those with the id that is hardest to forge: a client may choose its LiteLLM call id, and through it
    the response id of a failed call, but never our transaction id."""
    of_ours = [transaction for transaction in found if transaction.transaction_id == wanted]
    of_responses = [transaction for transaction in found if transaction.response_id == wanted]
    return of_ours or of_responses or found


def _members(value: object) -> Mapping[str, Any]:
    """A JSON object that may have been left as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}
