"""`luthien-hooks demo`: a proxy to try, whose config is right."""

import os
from pathlib import Path

from luthien_litellm_hooks.checking.findings import in_words
from luthien_litellm_hooks.checking.source import Source, read_source
from luthien_litellm_hooks.checking.started import Start
from luthien_litellm_hooks.commands.check import find
from luthien_litellm_hooks.config import POLICY_FILE_VARIABLE
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.inspection.output import complain
from luthien_litellm_hooks.policy_spec import PolicySpec, load_composition
from luthien_litellm_hooks.testing.demo import run_demo


def run(config: Path, port: int, policy: str | None) -> int:
    """Serves until Ctrl-C, with the policy called `policy` or else the config's own. Returns 1 if it
    cannot, 2 if the config cannot be read."""
    try:
        source = read_source(config)
        chosen = _in_policy_file(source) if policy is None else _default(policy)
    except ConfigError as error:
        complain(str(error))
        return 2
    errors = [finding for finding in find(source) if finding.level == "error"]
    for finding in errors:
        complain(in_words(finding))
    os.environ.pop(POLICY_FILE_VARIABLE, None)  # its policy is put into the config that is served
    return 1 if errors else run_demo(config, port, source.values, chosen)


def _default(policy: str) -> dict[str, object]:
    """A policy as it is without settings. Raises `ConfigError`."""
    spec: dict[str, object] = {"class": policy}
    load_composition(PolicySpec.model_validate(spec), where="--policy")
    return spec


def _in_policy_file(source: Source) -> dict[str, object] | None:
    policy_file = Start.of(source, os.environ).policy_file
    return {"class": "serial", "config": {"policies": [policy_file.values.get("policy")]}} if policy_file else None
