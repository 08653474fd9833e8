"""References to environment variables in settings, as LiteLLM has them: `os.environ/NAME`."""

import os

_MARK = "os.environ/"


def resolve_environment(value: object) -> object:
    """Replaces a reference by the variable's value. Raises `ValueError` if it is not set."""
    if not (isinstance(value, str) and value.startswith(_MARK)):
        return value
    name = value.removeprefix(_MARK)
    found = os.environ.get(name)
    if not found:
        raise ValueError(f"the environment variable {name} is not set")
    return found
