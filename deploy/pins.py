"""Prints what this environment has installed, as constraints for another install into it."""

from importlib.metadata import distributions

print(*sorted({f"{found.name}=={found.version}" for found in distributions()}), sep="\n")
