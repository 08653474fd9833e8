"""The `luthien-hooks` command."""

import json
from pathlib import Path
from typing import Annotated

import typer

from luthien_litellm_hooks import __version__

# The locals of a traceback could show a key.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)

# Where the commands find LiteLLM's spend logs.
_DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="DATABASE_URL", show_default=False, help="LiteLLM's database; it is read unless --url is given."
    ),
]
_ProxyUrl = Annotated[
    str | None,
    typer.Option("--url", help="A proxy to read from. Without a database: http://127.0.0.1:4000", show_default=False),
]
_ApiKey = Annotated[
    str,
    typer.Option("--api-key", envvar="LITELLM_MASTER_KEY", help="An admin's key of that proxy; it is never printed."),
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The id of a transaction, a response, or a LiteLLM call.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def luthien_hooks(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """AI-control policies for the stock LiteLLM proxy."""


@app.command()
def demo(
    config: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The LiteLLM configuration to serve.")
    ] = Path("litellm_config.yaml"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the proxy listens on 127.0.0.1.")] = 4000,
) -> None:
    """Serve a LiteLLM proxy in front of a scripted model, until Ctrl-C."""
    from luthien_litellm_hooks.testing.demo import run_demo

    raise typer.Exit(run_demo(config, port))


@app.command()
def doctor(
    key: Annotated[str, typer.Option(envvar="LITELLM_MASTER_KEY", help="A key of the proxy; it is never printed.")],
    url: Annotated[str, typer.Option(help="Where the proxy listens.")] = "http://127.0.0.1:4000",
    model: Annotated[
        list[str] | None, typer.Option(help="A model to ask, any number of times; else the proxy's first two.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Ask a running proxy, route by route, whether a policy governs its answers.

    Each probe that is let through calls the provider, for at most 16 tokens. The exit code
    is 1 if an answer is NOT GOVERNED, and 2 if the proxy cannot be reached or refuses the key.
    """
    from luthien_litellm_hooks.doctor.report import run_doctor

    raise typer.Exit(run_doctor(url, key, model or (), as_json=as_json))


@app.command()
def show(
    wanted: _Id,
    full: Annotated[bool, typer.Option("--full", help="Print long equal parts whole.")] = False,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    as_json: _AsJson = False,
) -> None:
    """Show a transaction: what was asked, what came, what was delivered, and who decided why.

    It reads LiteLLM's spend logs. The exit code is 1 if they have no such transaction, and
    2 if they cannot be read.
    """
    from luthien_litellm_hooks.inspection.commands import Source, run_show

    raise typer.Exit(run_show(Source(url, api_key, database_url), wanted, as_json=as_json, is_full=full))


@app.command()
def diff(
    wanted: _Id,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    as_json: _AsJson = False,
) -> None:
    """Show only what the policies changed in a transaction. The exit codes are those of `show`."""
    from luthien_litellm_hooks.inspection.commands import Source, run_diff

    raise typer.Exit(run_diff(Source(url, api_key, database_url), wanted, as_json=as_json))


@app.command("list")
def list_transactions(
    outcome: Annotated[str | None, typer.Option(help="How it ended, such as blocked or policy_error.")] = None,
    policy: Annotated[str | None, typer.Option(help="A policy that it went through.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, as it was asked for or as it answered.")] = None,
    key: Annotated[str | None, typer.Option(help="The client's key, by its alias or hash.")] = None,
    since: Annotated[str | None, typer.Option(help="So long ago (30m, 2h, 7d), or a time in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    as_json: _AsJson = False,
) -> None:
    """List transactions, newest first. The exit code is 2 if the spend logs cannot be read."""
    from luthien_litellm_hooks.inspection.commands import Source, run_list

    code = run_list(
        Source(url, api_key, database_url),
        outcome=outcome,
        policy=policy,
        model=model,
        key=key,
        since=since,
        limit=limit,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command()
def schema(
    policy: Annotated[
        str | None, typer.Argument(help='A policy\'s short name, or "module:Class". Without one: all of the settings.')
    ] = None,
) -> None:
    """Print the JSON Schema of a policy's settings, for editors and checks."""
    from luthien_litellm_hooks.config import Settings
    from luthien_litellm_hooks.errors import ConfigError
    from luthien_litellm_hooks.policy_spec import config_schema

    try:
        printed = Settings.model_json_schema() if policy is None else config_schema(policy)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(json.dumps(printed, indent=2))
