"""Which versions of LiteLLM the plugin is tested with, and what is said where another does not fit."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.log_lines import logger

TESTED = ("1.106.2", "1.108.11", "1.109.1")
"""What `make test-matrix` runs, oldest first. Each stands for all patches of its minor version."""


def running() -> str:
    """Names the plugin and LiteLLM with their versions."""
    try:
        own = version("luthien-litellm-hooks")
    except PackageNotFoundError:  # its source is on the path
        own = "(not installed)"
    return f"luthien_litellm_hooks {own} on LiteLLM {version('litellm')}"


def warn_if_untested(installed: str | None = None) -> None:
    """Says so in the log if this LiteLLM, or the version `installed`, is of a minor version that is not tested."""
    litellm = installed or version("litellm")
    if _minor(litellm) not in {_minor(tested) for tested in TESTED}:
        logger.warning(
            "luthien_litellm_hooks is tested with LiteLLM %s, and this is %s: "
            "ask `luthien-hooks doctor` whether its answers are governed",
            ", ".join(TESTED),
            litellm,
        )


@contextmanager
def fitting_litellm() -> Generator[None]:
    """Around what takes parts of LiteLLM. Raises `ConfigError` where this version has no such part.

    LiteLLM would take an `ImportError` for a wrong name in its config, and say only that.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] != "litellm":
            raise
        raise misfit(str(error)) from error
    except AttributeError as error:
        raise misfit(str(error)) from error


def misfit(what: str) -> ConfigError:
    """The error for a LiteLLM that is not as the plugin needs it, of which `what` tells."""
    return ConfigError(
        f"{what}. This version of LiteLLM and luthien_litellm_hooks do not fit: installed is LiteLLM "
        f"{version('litellm')}, tested are {', '.join(TESTED)}"
    )


def _minor(litellm: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", litellm)[:2])
