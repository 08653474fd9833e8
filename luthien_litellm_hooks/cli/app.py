"""Commands of `luthien-hooks`. Each imports its code when it runs, so that `--help` and completion stay fast."""

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from luthien_litellm_hooks import __version__

# Locals in a traceback could show a key.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)

# Location of the records.
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
        help="The key that the proxy seals records with, to open those in the database; by default --api-key.",
    ),
]
_Records = Annotated[
    Path | None,
    typer.Option(
        "--records",
        metavar="FILE",
        show_default=False,
        help="The file of a proxy without a database. By default $LUTHIEN_RECORDS or the usual one, if there is "
        "neither a database nor --url.",
    ),
]
_Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The id of a transaction, or the first letters of it; the id of a response, or of a LiteLLM call; or "
        '"last" for the latest transaction.',
    ),
]


class _Judges(Enum):
    live = "live"
    cached = "cached"
    recorded = "recorded"


class _FailOn(Enum):
    newly_allowed = "newly-allowed"
    changed = "changed"


_POLICY = 'A policy\'s short name, or "module:Class".'
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _policy_names(incomplete: str) -> list[str]:
    """Completes names of policies for shells."""
    from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS, short_names

    return [name for name in (*short_names(), *COMPOSITIONS) if name.startswith(incomplete)]


def _providers(incomplete: str) -> list[str]:
    """Completes names of providers for shells."""
    from luthien_litellm_hooks.cli.starter import PROVIDERS

    return [name for name in PROVIDERS if name.startswith(incomplete)]


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
        Path | None,
        typer.Option(show_default=False, help="The LiteLLM configuration to serve. Without it: a built-in one."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the proxy listens on 127.0.0.1.")] = 4000,
    policy: Annotated[
        str | None,
        typer.Option(autocompletion=_policy_names, show_default=False, help="A policy instead of the configuration's."),
    ] = None,
) -> None:
    """Serve a LiteLLM proxy in front of a scripted model until Ctrl-C, and show each decision of the policy.

    It begins with a harmless tool call and a dangerous one. The exit code is 1 if the proxy cannot be
    started or ends by itself, and 2 if the configuration cannot be read.
    """
    from luthien_litellm_hooks.cli.demo import run_demo

    raise typer.Exit(run_demo(config, port, policy))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("litellm_config.yaml"),
    provider: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=_providers,
            show_default=False,
            help="A provider of models; may be repeated. By default: anthropic, openai.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a LiteLLM configuration with policies, a new key and the providers, and print how to go on.

    The exit code is 1 if the file exists, and 2 if it cannot be written or a provider is unknown.
    """
    from luthien_litellm_hooks.cli.starter import run_init

    raise typer.Exit(run_init(file, provider or ("anthropic", "openai"), is_forced=force))


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="A LiteLLM configuration.", show_default=False)],
    as_json: _AsJson = False,
) -> None:
    """Report errors in a configuration, each with its key and line, without starting a proxy.

    It finds all errors that a start of LiteLLM would find in the plugin's settings. It also finds
    reasons why LiteLLM would start without the plugin. It imports the policies. The exit code is 1
    if there are errors, and 2 if the file cannot be read.
    """
    from luthien_litellm_hooks.cli.check import run_check

    raise typer.Exit(run_check(config, as_json=as_json))


@app.command()
def doctor(
    key: Annotated[str, typer.Option(envvar="LITELLM_MASTER_KEY", help="A key of the proxy; it is never printed.")],
    url: Annotated[str, typer.Option(help="Where the proxy listens.")] = "http://127.0.0.1:4000",
    model: Annotated[
        list[str] | None, typer.Option(help="A model to ask; may be repeated. By default the proxy's first two.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Probe each route of a running proxy, and report if a policy governs its responses.

    Each probe that no policy refuses calls the provider, for at most 16 tokens. The exit code
    is 1 if a response is NOT GOVERNED, and 2 if the proxy cannot be reached or refuses the key.
    """
    from luthien_litellm_hooks.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(url, key, model or (), as_json=as_json))


@app.command()
def show(
    wanted: _Id,
    full: Annotated[bool, typer.Option("--full", help="Print long equal parts in full.")] = False,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
    as_json: _AsJson = False,
) -> None:
    """Show a transaction: the request, the provider's and the delivered response, and each decision with its reason.

    It reads LiteLLM's spend logs, or the file of a proxy without a database. The exit code is 1 if
    the transaction is unknown, and 2 if they cannot be read, or the record cannot be opened.
    """
    from luthien_litellm_hooks.cli.show import Source, run_show

    raise typer.Exit(
        run_show(Source(url, api_key, database_url, salt_key, records), wanted, as_json=as_json, is_full=full)
    )


@app.command()
def diff(
    wanted: _Id,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
    as_json: _AsJson = False,
) -> None:
    """Show only the changes that policies made in a transaction. The exit codes are those of `show`."""
    from luthien_litellm_hooks.cli.show import Source, run_diff

    raise typer.Exit(run_diff(Source(url, api_key, database_url, salt_key, records), wanted, as_json=as_json))


@app.command("list")
def list_transactions(
    outcome: Annotated[str | None, typer.Option(help="The outcome, such as blocked or policy_error.")] = None,
    policy: Annotated[str | None, typer.Option(help="A policy of the transaction.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, as requested or as used.")] = None,
    key: Annotated[str | None, typer.Option(help="The client's key, by its alias or hash.")] = None,
    team: Annotated[str | None, typer.Option(help="The key's team, by its alias or id.")] = None,
    tool: Annotated[
        str | None, typer.Option(help="A tool that the model called; among the newest 1,000 that match the rest.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="An age (30m, 2h, 7d), or a time in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The largest number of rows.")] = 20,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
    as_json: _AsJson = False,
) -> None:
    """List transactions, newest first, with what was blocked and why. The exit code is 2 if they cannot be read."""
    from luthien_litellm_hooks.cli.show import Source, run_list

    code = run_list(
        Source(url, api_key, database_url, salt_key, records),
        outcome=outcome,
        policy=policy,
        model=model,
        key=key,
        team=team,
        tool=tool,
        since=since,
        limit=limit,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command()
def report(
    since: Annotated[str, typer.Option(help="An age (30m, 2h, 7d), or a time in UTC.")] = "7d",
    policy: Annotated[str | None, typer.Option(help="An observed policy.")] = None,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
    as_json: _AsJson = False,
) -> None:
    """Report what policies with `enforce: false` would have done, with rates and examples.

    First it says which responses were not observed, and why. It reads the newest 20,000 records.
    The exit code is 1 if no policy observed anything, and 2 if the records cannot be read.
    """
    from luthien_litellm_hooks.cli.report import run_report
    from luthien_litellm_hooks.cli.show import Source

    source = Source(url, api_key, database_url, salt_key, records)
    raise typer.Exit(run_report(source, since=since, policy=policy, as_json=as_json))


@app.command()
def watch(
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
) -> None:
    """Print each transaction of a running proxy when it ends, with its decisions, until Ctrl-C.

    LiteLLM writes its spend logs up to a minute late; the file of a proxy without a database is
    written at once. The exit code is 2 if they cannot be read.
    """
    from luthien_litellm_hooks.cli.show import Source
    from luthien_litellm_hooks.cli.watch import run_watch

    raise typer.Exit(run_watch(Source(url, api_key, database_url, salt_key, records)))


@app.command()
def label(
    wanted: Annotated[
        str | None, typer.Argument(metavar="ID", show_default=False, help="A transaction, as `show` takes it.")
    ] = None,
    verdict: Annotated[
        str | None, typer.Argument(metavar="allow|block", show_default=False, help="Your verdict on the call.")
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="The number of the call, if the response has several; from 1."),
    ] = None,
    note: Annotated[str | None, typer.Option(show_default=False, help="A remark for readers of the file.")] = None,
    changes: Annotated[
        Path | None,
        typer.Option("--from", show_default=False, help="Calls to label one by one, as JSON lines of a replay."),
    ] = None,
    file: Annotated[Path, typer.Option(help="The file of labels, one JSON object a line.")] = Path("labels.jsonl"),
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
) -> None:
    """Label a tool call of a recorded response, or each call of a replay, for rates of policies.

    A label holds for every repetition of the call, in any record; the file has a digest of it, and no text.
    The exit code is 1 if the call is unknown or has the opposite label, and 2 if something cannot be read.
    """
    from luthien_litellm_hooks.cli.labels import run_label, run_label_rows
    from luthien_litellm_hooks.cli.show import Source

    if changes is not None and wanted is None:
        raise typer.Exit(run_label_rows(changes, file))
    if wanted is None or verdict is None or changes is not None:
        raise typer.BadParameter("name a transaction and a label, such as `last block`, or a file with --from")
    source = Source(url, api_key, database_url, salt_key, records)
    raise typer.Exit(run_label(source, wanted, verdict, file, number=block, note=note))


@app.command()
def suggest(
    place: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PLACE",
            show_default=False,
            help='Transcripts of an agent, not records: "claude-code" or "codex" for the usual folder, or a path.',
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(show_default=False, help="A file of labels, which decide what was allowed.")
    ] = None,
    min_count: Annotated[int, typer.Option(min=1, help="How often something must have been seen.")] = 3,
    since: Annotated[str | None, typer.Option(help="An age (30m, 2h, 7d), or a time in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The largest number of records.")] = 1000,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
) -> None:
    """Suggest the narrowest `tool_rules` that would have allowed what was allowed, as YAML to review.

    They block everything else. What was seen too seldom gets no rule, and is told on standard error. The exit code is 1
    if there is nothing to suggest, and 2 if something cannot be read.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download
    from luthien_litellm_hooks.cli.show import Source
    from luthien_litellm_hooks.cli.suggest import run_suggest

    source = Source(url, api_key, database_url, salt_key, records)
    raise typer.Exit(run_suggest(source, place, labels, min_count=min_count, since=since, limit=limit))


@app.command("try")
def try_policy(
    policy: Annotated[str, typer.Argument(autocompletion=_policy_names, show_default=False, help=_POLICY)],
    command: Annotated[
        str | None, typer.Option(metavar="TEXT", show_default=False, help="A command that an agent's shell would run.")
    ] = None,
    call: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="NAME JSON", show_default=False, help="A call of any tool, and its arguments."),
    ] = None,
    answer: Annotated[
        Path | None,
        typer.Option(show_default=False, help="A recorded response of any route, streamed or full, or a text."),
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="ID", show_default=False, help="A recorded transaction, as `show` takes it.")
    ] = None,
    config: Annotated[str | None, typer.Option(show_default=False, help="The policy's settings, as YAML.")] = None,
    config_file: Annotated[Path | None, typer.Option(show_default=False, help="A file with these settings.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print long equal parts in full.")] = False,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
    as_json: _AsJson = False,
) -> None:
    """Run a policy on a tool call or a response without a proxy, and show the result and the reasons.

    The exit code is 1 if the call of --command or --call does not pass, the policy failed, or the
    record is unknown, and 2 if the policy could not be run.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download
    from luthien_litellm_hooks.cli.show import Source
    from luthien_litellm_hooks.cli.trial import Given, Settings, run_trial

    given = Given(command, call, answer, record)
    source = Source(url, api_key, database_url, salt_key, records)
    raise typer.Exit(run_trial(policy, Settings(config, config_file), given, source, as_json=as_json, is_full=full))


@app.command()
def replay(
    candidate: Annotated[
        str,
        typer.Argument(
            autocompletion=_policy_names,
            show_default=False,
            help='A LiteLLM configuration or a policy file, or a policy\'s short name or "module:Class".',
        ),
    ],
    config: Annotated[
        str | None, typer.Option(show_default=False, help="The settings of a policy given by its name, as YAML.")
    ] = None,
    config_file: Annotated[Path | None, typer.Option(show_default=False, help="A file with these settings.")] = None,
    against: Annotated[
        str,
        typer.Option(help='The verdicts to compare with: "recorded", or those of a configuration or a policy.'),
    ] = "recorded",
    place: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", show_default=False, help="A file of events or of records, instead of a proxy's."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="An age (30m, 2h, 7d), or a time in UTC.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, as requested or as used.")] = None,
    key: Annotated[str | None, typer.Option(help="The client's key, by its alias or hash.")] = None,
    outcome: Annotated[str | None, typer.Option(help="The recorded outcome, such as complete or blocked.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The largest number of transactions, the latest ones.")] = 1000,
    judges: Annotated[
        _Judges,
        typer.Option(
            help="Replies for policies that ask a model: its own; its own but once for each question, kept in --cache; "
            "or the scores of the record, which ask nobody."
        ),
    ] = _Judges.live,
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="The file of --judges cached.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="A file for the changes, one line of JSON each."),
    ] = None,
    fail_on: Annotated[
        _FailOn | None, typer.Option(show_default=False, help="Make the exit code 1 if there is such a change.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="A file of labels, for rates on the calls with one."),
    ] = None,
    target_fpr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default=False,
            help="With --labels: find the threshold for at most this false-positive rate.",
        ),
    ] = None,
    database_url: _DatabaseUrl = None,
    url: _ProxyUrl = None,
    api_key: _ApiKey = "",
    salt_key: _SaltKey = "",
    records: _Records = None,
    as_json: _AsJson = False,
) -> None:
    """Judge recorded transactions with a policy, and show what it would newly block, newly allow or change.

    Nothing is delivered, and no policy in force changes. The exit code is 1 if --fail-on finds its
    change, and 2 if records or policies cannot be read, or no transaction could be judged.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download
    from luthien_litellm_hooks.cli.replay import Options, run_replay
    from luthien_litellm_hooks.cli.show import Source
    from luthien_litellm_hooks.cli.trial import Settings

    options = Options(
        candidate=candidate,
        config=Settings(config, config_file),
        against=against,
        place=place,
        since=since,
        model=model,
        key=key,
        outcome=outcome,
        limit=limit,
        judges=judges.value,
        cache=cache,
        out=out,
        fail_on=None if fail_on is None else fail_on.value,
        labels=labels,
        target=target_fpr,
        as_json=as_json,
    )
    raise typer.Exit(run_replay(Source(url, api_key, database_url, salt_key, records), options))


policies = typer.Typer(no_args_is_help=True, help="List the policies, or show the settings of one.")
app.add_typer(policies, name="policies")


@policies.command("list")
def list_policies(as_json: _AsJson = False) -> None:
    """List the policies with a short name, those of installed packages included.

    The exit code is 1 if one of them cannot be used.
    """
    from luthien_litellm_hooks.cli.policies import run_list

    raise typer.Exit(run_list(as_json=as_json))


@policies.command("show")
def show_policy(
    name: Annotated[
        str,
        typer.Argument(autocompletion=_policy_names, show_default=False, help=_POLICY),
    ],
    as_json: _AsJson = False,
) -> None:
    """Show a policy's documentation, its settings, and a minimal configuration.

    The exit code is 2 if the policy is unknown.
    """
    from luthien_litellm_hooks.cli.policies import run_show

    raise typer.Exit(run_show(name, as_json=as_json))


approvals = typer.Typer(no_args_is_help=True, help="Decide about tool calls that wait for a person.")
app.add_typer(approvals, name="approvals")

_ApprovalsUrl = Annotated[
    str | None,
    typer.Option(
        "--url", help="The proxy, or its Redis. Without it: the file of a proxy on this machine.", show_default=False
    ),
]
_ApproverKey = Annotated[
    str,
    typer.Option(
        "--api-key", envvar="LITELLM_MASTER_KEY", help="An admin's or an approver's key of that proxy; never printed."
    ),
]
_ApprovalRecords = Annotated[
    Path | None,
    typer.Option(
        "--records",
        metavar="FILE",
        show_default=False,
        help="The file of records beside which the approvals are. By default $LUTHIEN_RECORDS or the usual one.",
    ),
]
_ApprovalId = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="The id of an approval.")]


@approvals.command("list")
def list_approvals(
    every: Annotated[bool, typer.Option("--all", help="List decided calls too, while they count.")] = False,
    url: _ApprovalsUrl = None,
    api_key: _ApproverKey = "",
    records: _ApprovalRecords = None,
    as_json: _AsJson = False,
) -> None:
    """List the tool calls that wait for a person, the oldest first. The exit code is 2 if they cannot be read."""
    from luthien_litellm_hooks.cli.approvals import run_list
    from luthien_litellm_hooks.cli.approvals.places import place_of

    raise typer.Exit(run_list(place_of(url, api_key, records), every=every, as_json=as_json))


@approvals.command("show")
def show_approval(
    id: _ApprovalId,
    url: _ApprovalsUrl = None,
    api_key: _ApproverKey = "",
    records: _ApprovalRecords = None,
    as_json: _AsJson = False,
) -> None:
    """Show a tool call that waits: its arguments, what they would do, who asks, and the user's last words.

    Invisible and control characters are shown as their codes. The exit code is 1 if the approval is unknown, and 2 if
    it cannot be read.
    """
    from luthien_litellm_hooks.cli.approvals import run_show
    from luthien_litellm_hooks.cli.approvals.places import place_of

    raise typer.Exit(run_show(place_of(url, api_key, records), id, as_json=as_json))


@approvals.command("approve")
def approve(
    id: _ApprovalId,
    arguments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="A file with other arguments: a JSON object, as the tool takes it."
        ),
    ] = None,
    session: Annotated[
        bool, typer.Option("--session", help="Grant it for 8 hours: the same call passes in this session.")
    ] = False,
    like: Annotated[
        bool,
        typer.Option(
            "--like", help="Grant calls like it, as `show` says: for 30 days to this key, or with --session to that."
        ),
    ] = False,
    team: Annotated[bool, typer.Option("--team", help="Give the grant to the key's team, for 30 days.")] = False,
    url: _ApprovalsUrl = None,
    api_key: _ApproverKey = "",
    records: _ApprovalRecords = None,
) -> None:
    """Approve a tool call, once, or with a grant for later ones. If its response is still held, it leaves at once.

    The exit code is 1 if the approval is unknown or decided, or the decision is refused, and 2 if the proxy or the file
    cannot be used.
    """
    from luthien_litellm_hooks.cli.approvals import run_approve_with_grant, run_decide
    from luthien_litellm_hooks.cli.approvals.places import place_of

    if arguments is not None and (session or like or team):
        raise typer.BadParameter("a grant is for the call as it is, without --arguments")
    if session and team:
        raise typer.BadParameter("give the grant to the session or to the team")
    if session or like or team:
        scope = "team" if team else "session" if session else "key"
        raise typer.Exit(run_approve_with_grant(place_of(url, api_key, records), id, scope, like=like))
    raise typer.Exit(run_decide(place_of(url, api_key, records), id, "approve", file=arguments))


@approvals.command("deny")
def deny(
    id: _ApprovalId,
    message: Annotated[str | None, typer.Option(show_default=False, help="A message to the agent.")] = None,
    url: _ApprovalsUrl = None,
    api_key: _ApproverKey = "",
    records: _ApprovalRecords = None,
) -> None:
    """Deny a tool call. The exit codes are those of `approve`."""
    from luthien_litellm_hooks.cli.approvals import run_decide
    from luthien_litellm_hooks.cli.approvals.places import place_of

    raise typer.Exit(run_decide(place_of(url, api_key, records), id, "deny", message=message))


@approvals.command("grants")
def list_grants(
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print rules of `tool_rules` for the config.")] = False,
    url: _ApprovalsUrl = None,
    api_key: _ApproverKey = "",
    records: _ApprovalRecords = None,
    as_json: _AsJson = False,
) -> None:
    """List the grants that hold, the oldest first. The exit code is 2 if they cannot be read."""
    from luthien_litellm_hooks.cli.approvals import run_grants
    from luthien_litellm_hooks.cli.approvals.places import place_of

    raise typer.Exit(run_grants(place_of(url, api_key, records), as_yaml=as_yaml, as_json=as_json))


@approvals.command("revoke")
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="The id of a grant.")],
    url: _ApprovalsUrl = None,
    api_key: _ApproverKey = "",
    records: _ApprovalRecords = None,
) -> None:
    """End a grant: later calls are asked about again. The exit codes are those of `approve`."""
    from luthien_litellm_hooks.cli.approvals import run_revoke
    from luthien_litellm_hooks.cli.approvals.places import place_of

    raise typer.Exit(run_revoke(place_of(url, api_key, records), id))


@approvals.command("watch")
def watch_approvals(url: _ApprovalsUrl = None, api_key: _ApproverKey = "", records: _ApprovalRecords = None) -> None:
    """Print each tool call when it begins to wait for a person, until Ctrl-C.

    The exit code is 2 if the calls cannot be read.
    """
    from luthien_litellm_hooks.cli.approvals import run_watch
    from luthien_litellm_hooks.cli.approvals.places import place_of

    raise typer.Exit(run_watch(place_of(url, api_key, records)))


@app.command()
def schema(
    policy: Annotated[
        str | None,
        typer.Argument(autocompletion=_policy_names, help=f"{_POLICY} Without it: all settings."),
    ] = None,
    file: Annotated[bool, typer.Option("--file", help="Describe a whole LiteLLM configuration, for editors.")] = False,
) -> None:
    """Print the JSON Schema of a policy's settings or of all settings, for editors and checks.

    The exit code is 2 if the policy is unknown.
    """
    from luthien_litellm_hooks.cli.policies import run_schema

    raise typer.Exit(run_schema(policy, is_of_file=file))
