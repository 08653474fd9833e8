"""Base classes and functions for authors of policies; the package's root exports all public ones."""
