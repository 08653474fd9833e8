"""The `luthien-hooks` command."""

import os
from pathlib import Path
from typing import Annotated

import typer

from luthien_litellm_hooks import __version__

# The locals of a traceback could show a key.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)

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
_SaltKey = Annotated[
    str,
    typer.Option(
        envvar="LITELLM_SALT_KEY",
        show_default=False,
        help="What the proxy seals records with, to open those in the database; without one --api-key does.",
    ),
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The id of a transaction, a response, or a LiteLLM call.")]
_POLICY = 'A policy\'s short name, or "module:Class".'
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _policy_names(incomplete: str) -> list[str]:
    """For the completion of shells."""
    from luthien_litellm_hooks.policy_loading import COMPOSITIONS, short_names

    return [name for name in (*short_names(), *COMPOSITIONS) if name.startswith(incomplete)]


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
    config: Annotated[Path, typer.Option(help="The LiteLLM configuration to serve.")] = Path("litellm_config.yaml"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the proxy listens on 127.0.0.1.")] = 4000,
    policy: Annotated[
        str | None,
        typer.Option(
            autocompletion=_policy_names, show_default=False, help="A policy in place of the configuration's."
        ),
    ] = None,
) -> None:
    """Serve a LiteLLM proxy in front of a scripted model until Ctrl-C, and show what the policy does.

    In a terminal the view is live; elsewhere each step is a line. The exit code is 1 if the proxy
    cannot be started or ends by itself, and 2 if the configuration cannot be read.
    """
    from luthien_litellm_hooks.commands.demo import run

    raise typer.Exit(run(config, port, policy))


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="A LiteLLM configuration.", show_default=False)],
    as_json: _AsJson = False,
) -> None:
    """Say what is wrong with a configuration, each error with its key and line, without starting a proxy.

    It finds all that a start of LiteLLM finds in what is the plugin's, and why LiteLLM would start
    without the plugin. Policies are imported. The exit code is 1 if there are errors, and 2 if the
    file cannot be read.
    """
    from luthien_litellm_hooks.commands.check import run_check

    raise typer.Exit(run_check(config, as_json=as_json))


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
    salt_key: _SaltKey = "",
    as_json: _AsJson = False,
) -> None:
    """Show a transaction: what was asked, what came, what was delivered, and who decided why.

    It reads LiteLLM's spend logs. The exit code is 1 if they have no such transaction, and
    2 if they cannot be read, or the record cannot be opened.
    """
    from luthien_litellm_hooks.inspection.commands import Source, run_show

    raise typer.Exit(run_show(Source(url, api_key, database_url, salt_key), wanted, as_json=as_json, is_full=full))


@app.command()
def diff(
    wanted: _Id,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    as_json: _AsJson = False,
) -> None:
    """Show only what the policies changed in a transaction. The exit codes are those of `show`."""
    from luthien_litellm_hooks.inspection.commands import Source, run_diff

    raise typer.Exit(run_diff(Source(url, api_key, database_url, salt_key), wanted, as_json=as_json))


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
    salt_key: _SaltKey = "",
    as_json: _AsJson = False,
) -> None:
    """List transactions, newest first. The exit code is 2 if the spend logs cannot be read."""
    from luthien_litellm_hooks.inspection.commands import Source, run_list

    code = run_list(
        Source(url, api_key, database_url, salt_key),
        outcome=outcome,
        policy=policy,
        model=model,
        key=key,
        since=since,
        limit=limit,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command("try")
def try_policy(
    policy: Annotated[str, typer.Argument(autocompletion=_policy_names, show_default=False, help=_POLICY)],
    answer: Annotated[
        Path | None,
        typer.Option(show_default=False, help="A recorded answer of any route, streamed or not, or a text."),
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="ID", show_default=False, help="A transaction in LiteLLM's spend logs.")
    ] = None,
    config: Annotated[str | None, typer.Option(show_default=False, help="The policy's settings, as YAML.")] = None,
    config_file: Annotated[Path | None, typer.Option(show_default=False, help="A file with these settings.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print long equal parts whole.")] = False,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    as_json: _AsJson = False,
) -> None:
    """Run a policy on an answer without a proxy: what would be delivered, what it decided, and why.

    The exit code is 1 if the policy failed or there is no such record, and 2 if nothing could be run.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM would look for it on the network
    from luthien_litellm_hooks.commands.trial import Settings, run_trial
    from luthien_litellm_hooks.inspection.commands import Source

    source = Source(url, api_key, database_url, salt_key)
    settings = Settings(config, config_file)
    raise typer.Exit(run_trial(policy, settings, answer, record, source, as_json=as_json, is_full=full))


policies = typer.Typer(no_args_is_help=True, help="Which policies there are, and what they take.")
app.add_typer(policies, name="policies")


@policies.command("list")
def list_policies(as_json: _AsJson = False) -> None:
    """List the policies that have a short name, those of other packages too.

    The exit code is 1 if one of them cannot be used.
    """
    from luthien_litellm_hooks.commands.policies import run_list

    raise typer.Exit(run_list(as_json=as_json))


@policies.command("show")
def show_policy(
    name: Annotated[
        str,
        typer.Argument(autocompletion=_policy_names, show_default=False, help=_POLICY),
    ],
    as_json: _AsJson = False,
) -> None:
    """Show what a policy does, its settings, and the least that a config says of it.

    The exit code is 2 if there is no such policy.
    """
    from luthien_litellm_hooks.commands.policies import run_show

    raise typer.Exit(run_show(name, as_json=as_json))


@app.command()
def schema(
    policy: Annotated[
        str | None,
        typer.Argument(autocompletion=_policy_names, help=f"{_POLICY} Without one: all of the settings."),
    ] = None,
    file: Annotated[
        bool, typer.Option("--file", help="Of a whole LiteLLM configuration, which is what an editor wants.")
    ] = False,
) -> None:
    """Print the JSON Schema of a policy's settings or of all settings, for editors and checks.

    The exit code is 2 if there is no such policy.
    """
    from luthien_litellm_hooks.commands.schema import run_schema

    raise typer.Exit(run_schema(policy, is_of_file=file))
