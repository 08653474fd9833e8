"""The versions of LiteLLM that the plugin is tested with, and those that it refuses."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from luthien_litellm_hooks.checking.releases import COMPROMISED
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.log_lines import logger

TESTED = ("1.106.2", "1.108.14", "1.109.3", "1.110.2")
"""What `make test-matrix` runs, oldest first. Each stands for all patches of its minor version."""


def refuse_compromised(installed: str | None = None) -> None:
    """Raises `ConfigError` if this LiteLLM, or the version `installed`, is one that attackers published."""
    litellm = installed or version("litellm")
    if litellm in COMPROMISED:
        raise ConfigError(
            f"LiteLLM {litellm} is a compromised release, which sends the secrets of its host to attackers, and has "
            f"run already. Rebuild the environment with LiteLLM {TESTED[0]}, never by an upgrade within it, and rotate "
            "every secret that this host could read"
        )


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
    """Around what takes parts of LiteLLM. Raises `ConfigError` where this version has no such part, or is compromised.

    LiteLLM would take an `ImportError` for a wrong name in its config, and say only that.
    """
    refuse_compromised()
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
