"""`luthien-hooks show`, `diff` and `list`: stored transactions, for people.

Each command returns its exit code: 1 if it finds nothing to print, 2 if the records cannot be read.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, cast, get_args

from luthien_litellm_hooks.cli.output import complain, print_json, terminal
from luthien_litellm_hooks.cli.show.printing import (
    print_diff,
    print_list,
    print_transaction,
)
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.facts import as_stored, differences
from luthien_litellm_hooks.monitor.opening import ByProxy, Opened, WithKeys, opened
from luthien_litellm_hooks.monitor.spend_logs import (
    Database,
    Filter,
    LocalFile,
    ProxyApi,
    SpendLogs,
    best_matches,
    moment,
)
from luthien_litellm_hooks.monitor.transactions import Record, Transaction
from luthien_litellm_hooks.monitor.words import HOW_TO_STORE, changed_parts
from luthien_litellm_hooks.recording.recorder import Outcome
from luthien_litellm_hooks.recording.sqlite import records_path

_Arguments = ParamSpec("_Arguments")

_DEFAULT_URL = "http://127.0.0.1:4000"
_NOTHING = "Nothing was changed."
_NOT_SEEN = "The record does not show the change, because it hides credentials and cuts long texts."
_MOST_OPENED = 1_000
"""Transactions that are searched for a tool: its name is sealed in the spend logs."""
_LAST = "last"


@dataclass(frozen=True, slots=True)
class Source:
    """Location of the records: the proxy at `url`, the file `records`, or the database.

    Without any of them it is the usual file of a proxy without a database; if that is missing, and there is a key, a
    proxy on this machine. `salt_key` and `key` open sealed records of the database.
    """

    url: str | None
    key: str
    database_url: str | None
    salt_key: str = ""
    records: Path | None = None

    def open(self) -> SpendLogs:
        file = self._file()
        if file is not None:
            return LocalFile(file)
        if self.url is None and self.database_url:
            return Database(self.database_url)
        return ProxyApi(self.url or _DEFAULT_URL, self.key.strip())

    @property
    def place(self) -> str:
        """Name of the location, for people."""
        file = self._file()
        if file is not None:
            return str(file)
        return "the database" if self.url is None and self.database_url else self.url or _DEFAULT_URL

    def opened(self, transactions: Sequence[Transaction]) -> Opened:
        """Returns the transactions with their sealed records opened."""
        if self.url is None and (self.database_url or self._file() is not None):
            return opened(transactions, WithKeys([self.salt_key.strip(), self.key.strip()]))
        return opened(transactions, ByProxy(self.url or _DEFAULT_URL, self.key.strip()))

    def _file(self) -> Path | None:
        if self.records is not None or self.url is not None or self.database_url:
            return self.records if self.url is None else None
        usual = records_path(os.environ)
        return usual if not self.key or os.path.exists(os.path.expanduser(usual)) else None


def with_plain_errors(command: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    @wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            complain(str(error))
            return 2

    return run


@with_plain_errors
def run_show(source: Source, wanted: str, *, as_json: bool, is_full: bool) -> int:
    found = find_transaction(source, wanted)
    if found is None:
        return 1
    transaction, record = found
    if as_json:
        print_json(as_stored(transaction))
    else:
        print_transaction(terminal(), transaction, record, is_full=is_full)
    return 2 if record.is_closed else 0


@with_plain_errors
def run_diff(source: Source, wanted: str, *, as_json: bool) -> int:
    """Prints the changes of the policies in one transaction."""
    found = find_transaction(source, wanted)
    if found is None:
        return 1
    _, record = found
    if record.is_closed:
        return 2
    sides = record.sides
    if sides is None:
        return _diff_without_texts(record)
    changed = differences(*sides)
    if as_json:
        print_json({"transaction_id": record.transaction_id, **changed})
    elif any(changed.values()):
        print_diff(terminal(), *sides)
    else:
        print(_NOT_SEEN if changed_parts(record) else _NOTHING)
    return 0


@with_plain_errors
def run_list(
    source: Source,
    *,
    outcome: str | None,
    policy: str | None,
    model: str | None,
    key: str | None,
    team: str | None,
    tool: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> int:
    """Prints the newest transactions that match the filter."""
    chosen = criteria(outcome=outcome, policy=policy, model=model, key=key, team=team, since=since)
    found = source.opened(list(source.open().latest(chosen, limit if tool is None else _MOST_OPENED)))
    transactions = [one for one in found.transactions if tool is None or _calls(one, tool)][:limit]
    if as_json:
        without = {"original", "final", "sealed"}
        print_json({"transactions": [as_stored(row, without) for row in transactions]})
    elif transactions:
        print_list(terminal(), transactions)
    else:
        complain("There is no matching transaction.")
    complain_once(found.complaints)
    return 0


def criteria(
    *,
    outcome: str | None = None,
    policy: str | None = None,
    model: str | None = None,
    key: str | None = None,
    team: str | None = None,
    since: str | None = None,
) -> Filter:
    """Returns the filter for the options of a command. Raises `ConfigError` for an unknown outcome or time."""
    return Filter(_outcome(outcome), policy, model, key, team, None if since is None else moment(since))


def _calls(transaction: Transaction, tool: str) -> bool:
    return transaction.record is not None and tool in transaction.record.tools


def find_transaction(source: Source, wanted: str) -> tuple[Transaction, Record] | None:
    """Returns the one transaction with this id, or with an id that begins so, or the latest one for `last`.

    Complains if it finds none, several, or a record that stays closed. Raises `ConfigError` if the records cannot be
    read.
    """
    logs = source.open()
    found = list(logs.latest(Filter(), 1)) if wanted == _LAST else best_matches(logs.find(wanted), wanted)
    if not found:
        complain(
            f"There is no transaction, response or LiteLLM call {wanted}. LiteLLM writes its spend logs up to a "
            "minute late; `luthien-hooks list` shows the transactions. Over HTTP only the newest 20,000 rows are "
            "searched for a transaction's id."
        )
        return None
    if len(found) > 1:
        ids = ", ".join(transaction.transaction_id or transaction.response_id for transaction in found)
        complain(f"Several calls have an id {wanted}, which is its beginning or a client's choice. Use one of: {ids}")
        return None
    if found[0].record is None:
        complain(f"LiteLLM logged {wanted}, but no policy governed it: the row holds no record of this plugin.")
        return None
    opened_rows = source.opened(found)
    complain_once(opened_rows.complaints)
    [transaction] = opened_rows.transactions
    return transaction, cast(Record, transaction.record)


def complain_once(complaints: Sequence[str]) -> None:
    """Prints the first complaint, and the number of others."""
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


def _outcome(outcome: str | None) -> str | None:
    known: Sequence[str] = get_args(Outcome)
    if outcome is not None and outcome not in known:
        raise ConfigError(f"unknown outcome {outcome!r}: --outcome is one of {', '.join(known)}.")
    return outcome
