"""What the commands do. Each returns its exit code: 1 if there is nothing to print, 2 if the logs cannot be read."""

import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec, cast, get_args

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.inspection.opening import ByProxy, Opened, WithKeys, opened
from luthien_litellm_hooks.inspection.output import complain, print_json
from luthien_litellm_hooks.inspection.printing import (
    HOW_TO_STORE,
    changed_parts,
    compared,
    diff_lines,
    print_diff,
    print_list,
    print_transaction,
    terminal,
)
from luthien_litellm_hooks.inspection.transactions import (
    Filter,
    Record,
    Side,
    SpendLogs,
    Transaction,
    best_matches,
)
from luthien_litellm_hooks.recorder import Outcome

_Arguments = ParamSpec("_Arguments")

_DEFAULT_URL = "http://127.0.0.1:4000"
_NOTHING = "Nothing was changed."
_NOT_SEEN = "What was changed is not in the record, which hides credentials and cuts long texts."
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the spend logs are read: from the proxy at `url`; without one from the database, or else from
    a proxy on this machine. `salt_key` and `key` open what is sealed in the database."""

    url: str | None
    key: str
    database_url: str | None
    salt_key: str = ""

    def open(self) -> SpendLogs:
        if self.url is None and self.database_url:
            from luthien_litellm_hooks.inspection.database import Database

            return Database(self.database_url)
        from luthien_litellm_hooks.inspection.proxy_api import ProxyApi

        return ProxyApi(self.url or _DEFAULT_URL, self.key.strip())

    def opened(self, transactions: Sequence[Transaction]) -> Opened:
        """The transactions with what is sealed of their records."""
        if self.url is None and self.database_url:
            return opened(transactions, WithKeys([self.salt_key.strip(), self.key.strip()]))
        return opened(transactions, ByProxy(self.url or _DEFAULT_URL, self.key.strip()))


def _with_plain_errors(command: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    @wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            complain(str(error))
            return 2

    return run


@_with_plain_errors
def run_show(source: Source, wanted: str, *, as_json: bool, is_full: bool) -> int:
    """Prints one transaction."""
    found = find_transaction(source, wanted)
    if found is None:
        return 1
    transaction, record = found
    if as_json:
        print_json(_as_stored(transaction))
    else:
        print_transaction(terminal(), transaction, record, is_full=is_full)
    return 2 if record.is_closed else 0


@_with_plain_errors
def run_diff(source: Source, wanted: str, *, as_json: bool) -> int:
    """Prints what the policies changed in one transaction."""
    found = find_transaction(source, wanted)
    if found is None:
        return 1
    _, record = found
    if record.is_closed:
        return 2
    if record.original is None or record.final is None:
        return _diff_without_texts(record)
    differences = _differences(record.original, record.final)
    if as_json:
        print_json({"transaction_id": record.transaction_id, **differences})
    elif any(differences.values()):
        print_diff(terminal(), record.original, record.final)
    else:
        print(_NOT_SEEN if changed_parts(record) else _NOTHING)
    return 0


@_with_plain_errors
def run_list(
    source: Source,
    *,
    outcome: str | None,
    policy: str | None,
    model: str | None,
    key: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> int:
    """Prints the newest transactions that are as asked for."""
    chosen = Filter(_outcome(outcome), policy, model, key, None if since is None else _moment(since))
    found = source.opened(source.open().latest(chosen, limit))
    transactions = found.transactions
    if as_json:
        without = {"original", "final", "sealed"}
        print_json({"transactions": [_as_stored(row, without) for row in transactions]})
    elif transactions:
        print_list(terminal(), transactions)
    else:
        complain("The spend logs have no transaction of that kind.")
    _complain_once(found.complaints)
    return 0


def find_transaction(source: Source, wanted: str) -> tuple[Transaction, Record] | None:
    """The one transaction with this id. Says so if there is none, or more than one, or if its record stays closed.
    Raises `ConfigError` if the logs cannot be read."""
    found = best_matches(source.open().find(wanted), wanted)
    if not found:
        complain(
            f"The spend logs have no transaction, response or LiteLLM call {wanted}. LiteLLM writes them up to a "
            "minute late; `luthien-hooks list` shows what is there. Over HTTP only the newest 20,000 rows are "
            "searched for a transaction's id."
        )
        return None
    if len(found) > 1:
        ids = ", ".join(transaction.transaction_id or transaction.response_id for transaction in found)
        complain(f"Several calls have the id {wanted}, which a client may choose. Ask for one of: {ids}")
        return None
    if found[0].record is None:
        complain(f"LiteLLM logged {wanted}, but no policy governed it: the row holds no record of this plugin.")
        return None
    whole = source.opened(found)
    _complain_once(whole.complaints)
    [transaction] = whole.transactions
    return transaction, cast(Record, transaction.record)


def _complain_once(complaints: Sequence[str]) -> None:
    """Of a list with many rows the first complaint says it for all."""
    if complaints:
        more = len(complaints) - 1
        complain(complaints[0] + (f" The same holds for {more} more." if more else ""))


def _diff_without_texts(record: Record) -> int:
    changed = changed_parts(record)
    if not changed:
        print(_NOTHING)
        return 0
    complain(f"Changed: {' and '.join(changed)}. {HOW_TO_STORE}")
    return 1


def _differences(original: Side, final: Side) -> dict[str, list[str]]:
    pairs_of = compared(original, final)
    return {
        title: [] if all(pair.is_equal for pair in pairs) else diff_lines(pairs) for title, pairs in pairs_of.items()
    }


def _outcome(outcome: str | None) -> str | None:
    known: Sequence[str] = get_args(Outcome)
    if outcome is not None and outcome not in known:
        raise ConfigError(f"No transaction ends as {outcome!r}: --outcome is one of {', '.join(known)}.")
    return outcome


def _moment(text: str) -> datetime:
    """A time, or so long ago. A time without a zone is in UTC, as the list prints it."""
    ago = re.fullmatch(r"(\d+)([smhdw])", text)
    try:
        if ago:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigError(f"--since {text!r} is no time: write 30m, 2h, 7d, or 2026-05-31T12:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _as_stored(transaction: Transaction, without: AbstractSet[str] = frozenset()) -> dict[str, Any]:
    """The row's facts and the record's members as they were written, but for those named."""
    return transaction.model_dump(mode="json", exclude_unset=True, exclude={"record": set(without)})
