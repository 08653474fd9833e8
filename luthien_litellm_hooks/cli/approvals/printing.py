"""Printing of approvals. A model's text is escaped, and never read as markup."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import print_json, terminal
from luthien_litellm_hooks.monitor.outline import argument_lines
from luthien_litellm_hooks.policies.rules.effects import effects_of
from luthien_litellm_hooks.policies.rules.likeness import like_condition, words_of
from luthien_litellm_hooks.policy.asked_calls import AskedCall
from luthien_litellm_hooks.policy.grants import Grant
from luthien_litellm_hooks.telemetry.log_lines import bounded_line, escape, one_line

_SHORT = 80
_STATES = {"pending": "yellow", "approved": "green", "used": "green", "denied": "red"}


def print_list(calls: Sequence[AskedCall], *, every: bool, as_json: bool) -> None:
    """Prints calls, a line each."""
    if as_json:
        print_json({"approvals": [_as_json(call) for call in calls]})
        return
    if not calls:
        print("No call has been asked about." if every else "No call waits.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("id", "state", "age", "tool"):
        table.add_column(title, no_wrap=True)
    for title in ("in short", "session or key"):
        table.add_column(title, overflow="fold")
    for call in calls:
        table.add_row(
            Text(one_line(call.id)),
            Text(call.state, _STATES[call.state]),
            Text(_age(call.asked_at)),
            Text(bounded_line(call.tool, 40)),
            Text(_in_short(call)),
            Text(bounded_line(call.session or call.key_alias or (call.key_hash or "")[:8], 40)),
        )
    terminal().print(table)


def line(call: AskedCall) -> Text:
    """Returns a call in one line."""
    who = call.session or call.key_alias or (call.key_hash or "")[:8]
    return Text.assemble(
        f"{call.asked_at.astimezone(UTC):%H:%M:%S} ",
        (one_line(call.id), "bold"),
        f" {bounded_line(call.tool, 40)}: {_in_short(call)} ({bounded_line(who, 40)})",
    )


def _in_short(call: AskedCall) -> str:
    effects = effects_of(call.tool_call)
    return bounded_line(effects[0] if effects else call.arguments, _SHORT)


def _age(since: datetime) -> str:
    seconds = max((datetime.now(UTC) - since).total_seconds(), 0)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def print_call(call: AskedCall, *, as_json: bool) -> None:
    """Prints a call with all that it does."""
    if as_json:
        print_json(_as_json(call))
        return
    console = terminal()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _facts(call).items():
        if text:
            table.add_row(title, Text(text))
    console.print(table)
    _print_part(console, "arguments", argument_lines(call.arguments))
    _print_part(console, "effects", [one_line(effect) for effect in effects_of(call.tool_call)])
    _print_part(console, "the user's last words", escape(call.words).split("\n") if call.words else [])
    _print_part(console, "other calls of the response", [one_line(other) for other in call.beside])
    if call.state == "pending":
        _print_part(console, "what may be granted", _offers(call))
    if call.edited is not None:
        _print_part(console, f"arguments, as {one_line(call.by or '')} edited them", argument_lines(call.edited))


def _offers(call: AskedCall) -> list[str]:
    like = like_condition(call.tool_call)
    offers = ["--session: exactly this call again in this session, for 8 hours"] if call.session else []
    if like is not None:
        offers.append(f"--like: {one_line(words_of(like))}; by this key, for 30 days")
    return offers


def _facts(call: AskedCall) -> dict[str, str]:
    key = f"{call.key_alias} ({call.key_hash})" if call.key_alias else call.key_hash
    facts = {
        "approval": call.id,
        "state": call.state if call.by is None else f"{call.state}, decided by {call.by}",
        "asked": f"{call.asked_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "tool": call.tool,
        "policy": call.policy,
        "reason": call.reason,
        "evidence": call.evidence,
        "key": key,
        "user": call.user_id,
        "team": call.team_alias or call.team_id,
        "session": call.session,
        "model": call.model,
        "transaction": call.transaction,
        "message": call.message,
    }
    return {title: one_line(text) for title, text in facts.items() if text}


def _print_part(console: Console, title: str, lines: Sequence[str]) -> None:
    """Prints lines indented below their title: a model's text cannot pass for ours at the margin."""
    if not lines:
        return
    console.print(Text(f"\n{title}", "bold"))
    for line in lines:
        for piece in Text(line).wrap(console, max(console.width - 2, 20)) or [Text("")]:
            console.print(Text.assemble("  ", piece), soft_wrap=True)


def _as_json(call: AskedCall) -> dict[str, Any]:
    return {**call.model_dump(mode="json"), "effects": effects_of(call.tool_call)}


# Grants


def grant_line(grant: Grant) -> str:
    """Returns a grant in one line."""
    named = {"session": grant.session, "key": grant.key_alias or grant.key_hash, "team": grant.team_alias}
    scope = bounded_line(named[grant.scope] or grant.team_id or "", 40)
    until = f"{grant.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    words = bounded_line(words_of(grant.condition), 200)
    return f"{one_line(grant.id)} {bounded_line(grant.tool, 40)}: {words}; {grant.scope} {scope}, until {until}"


def print_grants(grants: Sequence[Grant], *, as_yaml: bool, as_json: bool) -> None:
    """Prints grants, a line each, or as rules for a config."""
    if as_json:
        print_json({"grants": [grant.model_dump(mode="json") for grant in grants]})
    elif as_yaml:
        print(_as_yaml(grants), end="")
    elif not grants:
        print("There is no grant.")
    else:
        for grant in grants:
            print(f"{grant_line(grant)}; by {one_line(grant.by)} ({one_line(grant.approval)})")


def _as_yaml(grants: Sequence[Grant]) -> str:
    """Returns the rules of the grants. A rule is for every session, key and team."""
    lines = ["# Rules for tool_rules, before the one that asks. They hold for everybody, and do not end."]
    for grant in grants:
        if grant.condition.rule is None:
            lines.append(f"# {grant_line(grant)}: no rule says this")
            continue
        rule = {**grant.condition.rule, "reason": f"granted by {grant.by} ({grant.approval})"}
        lines.append(f"# {grant_line(grant)}")
        lines.append(yaml.safe_dump([rule], sort_keys=False, width=120).rstrip())
    return "\n".join(lines) + "\n"
