"""`luthien-hooks policies`: which there are, and what each takes."""

import inspect
from dataclasses import dataclass
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.commands.settings_table import example, rows
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.inspection.output import complain, print_json
from luthien_litellm_hooks.inspection.printing import terminal
from luthien_litellm_hooks.policy_loading import COMPOSITIONS, policy_class, short_names
from luthien_litellm_hooks.policy_spec import ParallelConfig, SerialConfig, config_schema
from luthien_litellm_hooks.printable import escape

_COMPOSITIONS: dict[str, type[SerialConfig]] = dict(zip(COMPOSITIONS, (SerialConfig, ParallelConfig), strict=True))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it is shown. `target` is its "module:Class", `summary` the beginning of its documentation."""

    name: str
    target: str
    documentation: str

    @classmethod
    def called(cls, name: str) -> "Policy":
        """Raises `ConfigError` if there is none, or if it cannot be imported."""
        found = _COMPOSITIONS.get(name) or policy_class(name, where=name)
        target = short_names().get(name, name if ":" in name else f"{found.__module__}:{found.__name__}")
        return cls(name, target, inspect.getdoc(found) or "")

    @property
    def summary(self) -> str:
        return " ".join(self.documentation.split("\n\n")[0].split())

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "class": self.target, "summary": self.summary}


def run_list(*, as_json: bool) -> int:
    """Prints every policy with a short name. Returns 1 if one of them cannot be used."""
    found: list[Policy] = []
    failures: list[str] = []
    for name in (*short_names(), *COMPOSITIONS):
        try:
            found.append(Policy.called(name))
        except ConfigError as error:
            failures.append(str(error))
    if as_json:
        print_json({"policies": [policy.as_json() for policy in found]})
    else:
        _print_list(terminal(), found)
    for failure in failures:
        complain(failure)
    return int(bool(failures))


def run_show(name: str, *, as_json: bool) -> int:
    """Prints one policy's documentation, settings and an example. Returns 2 if there is none."""
    try:
        policy, schema = Policy.called(name), config_schema(name)
    except ConfigError as error:
        complain(str(error))
        return 2
    text = yaml.safe_dump({"policy": {"class": name, **_config(schema)}}, sort_keys=False)
    if as_json:
        print_json({**policy.as_json(), "documentation": policy.documentation, "schema": schema, "example": text})
    else:
        _print_policy(terminal(), policy, schema, text)
    return 0


def _config(schema: dict[str, Any]) -> dict[str, Any]:
    config = example(schema)
    return {"config": config} if config else {}


def _print_list(console: Console, policies: list[Policy]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("what it does", overflow="fold")
    for policy in policies:
        table.add_row(escape(policy.name), Text(escape(policy.summary)))
    console.print(table)


def _print_policy(console: Console, policy: Policy, schema: dict[str, Any], text: str) -> None:
    console.print(Text.assemble((escape(policy.name), "bold"), f"  {escape(policy.target)}\n"), soft_wrap=True)
    console.print(Text(escape(policy.documentation)))
    settings = rows(schema)
    if settings:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("setting", "value", "default", "meaning"):
            table.add_column(title, overflow="fold", style="bold" if title == "setting" else None)
        for row in settings:
            table.add_row(
                *(Text(escape(cell)) for cell in (row.key, row.kind, row.default or "needed", row.description))
            )
        console.print(table)
    else:
        console.print(Text("\nIt has no settings.\n"))
    console.print(Text(escape(text.rstrip()), "cyan"), soft_wrap=True)
