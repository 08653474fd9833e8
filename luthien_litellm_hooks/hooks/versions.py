"""Which versions of LiteLLM the plugin is tested with."""

import logging
import re
from importlib.metadata import version

logger = logging.getLogger("luthien_litellm_hooks")

TESTED = ("1.106.2",)
"""What `make test-matrix` runs, oldest first. Each stands for all patches of its minor version."""


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


def _minor(litellm: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", litellm)[:2])
