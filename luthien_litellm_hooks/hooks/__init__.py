"""Edge to LiteLLM's proxy: `callback` lists its hooks. No policy logic.

This module does not import LiteLLM. It holds the fitting versions of LiteLLM, and the mark of `luthien-hooks doctor`: a
request whose header `x-luthien-doctor` carries a nonce is a probe. The policy judges it like any other, and the
provider is called; but its response is dropped, and the client gets a proof instead. So the header opens nothing: its
sender gets less than without it.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from luthien_litellm_hooks.config.check.rules import COMPROMISED
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.telemetry.log_lines import logger

TESTED = ("1.106.2", "1.108.14", "1.109.3", "1.110.2")
"""Versions in `make test-matrix`, oldest first. Each represents all patches of its minor version."""


def refuse_compromised(installed: str | None = None) -> None:
    """Raises `ConfigError` if attackers published the installed LiteLLM, or the version `installed`."""
    litellm = installed or version("litellm")
    if litellm in COMPROMISED:
        raise ConfigError(
            f"LiteLLM {litellm} is a compromised release, which sends the secrets of its host to attackers, and has "
            f"run already. Rebuild the environment with LiteLLM {TESTED[0]}, never by an upgrade within it, and rotate "
            "every secret that this host could read"
        )


def running() -> str:
    """Returns the plugin and LiteLLM with their versions."""
    try:
        own = version("luthien-litellm-hooks")
    except PackageNotFoundError:  # the source is on the path
        own = "(not installed)"
    return f"luthien_litellm_hooks {own} on LiteLLM {version('litellm')}"


def warn_if_untested(installed: str | None = None) -> None:
    """Warns if the installed LiteLLM, or the version `installed`, is of a minor version without tests."""
    litellm = installed or version("litellm")
    if _minor(litellm) not in {_minor(tested) for tested in TESTED}:
        logger.warning(
            "luthien_litellm_hooks is tested with LiteLLM %s, and this is %s: "
            "ask `luthien-hooks doctor` whether its responses are governed",
            ", ".join(TESTED),
            litellm,
        )


@contextmanager
def fitting_litellm() -> Generator[None]:
    """Guards imports from LiteLLM. Raises `ConfigError` if this version lacks one, or is compromised.

    LiteLLM would read an `ImportError` as a wrong name in its config, and report only that.
    """
    refuse_compromised()
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] != "litellm":
            raise
        raise incompatible(str(error)) from error
    except AttributeError as error:
        raise incompatible(str(error)) from error


def incompatible(what: str) -> ConfigError:
    """Returns the error for an unfit LiteLLM; `what` is the misfit."""
    return ConfigError(
        f"{what}. This version of LiteLLM and luthien_litellm_hooks do not fit: installed is LiteLLM "
        f"{version('litellm')}, tested are {', '.join(TESTED)}"
    )


def _minor(litellm: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", litellm)[:2])


HEADER = "x-luthien-doctor"
_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}")


def is_nonce(value: object) -> bool:
    """Returns whether `value` marks a probe; any other value in the header is ignored."""
    return isinstance(value, str) and _NONCE.fullmatch(value) is not None


def governed(nonce: str) -> str:
    """Returns the text instead of a model's response: only the hook that governs responses delivers it."""
    return f"luthien governs this answer ({nonce})"


def refused(nonce: str) -> str:
    """Returns the text instead of the policy's own answer to the request: it proves nothing about the route's
    responses."""
    return f"luthien's policy lets no model answer this ({nonce})"
