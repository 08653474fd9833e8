"""The `luthien-hooks` command."""

from luthien_litellm_hooks.cli.app import app as app
