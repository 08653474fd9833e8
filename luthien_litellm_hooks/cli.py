"""The `luthien-hooks` command."""

from pathlib import Path
from typing import Annotated

import typer

from luthien_litellm_hooks import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False)


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
