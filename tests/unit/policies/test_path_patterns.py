"""Patterns for paths: what is looked for first is never the reason why one does not match."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien_litellm_hooks.policies.rules.patterns import PathPatterns

KELVIN = "\u212a"
"""A sign whose small letter is `k`."""
GLOBS = st.lists(st.sampled_from(["a", "k", "A", "**/", "/**", "*", "?", "/", ".", "\u00e9", KELVIN]), max_size=8)
FORMS = st.text(st.sampled_from(f"akAK./\u00e9{KELVIN}"), max_size=8)


def escaped(glob: str) -> str:
    """A glob of the same paths in which nothing is plain."""
    return re.sub(r"([^\W\d_])", r"\\\1", glob)


@given(GLOBS.map("".join), FORMS)
def test_a_glob_matches_what_it_does_when_each_letter_is_escaped(glob: str, form: str) -> None:
    assert PathPatterns([glob]).matches([form]) == PathPatterns([escaped(glob)]).matches([form])


@pytest.mark.parametrize(
    ("glob", "form"),
    [
        ("*/Secret-*/**", "/srv/SECRET-1/key"),
        ("secrets/**", "/srv/secrets"),
        ("{key,secret}.pem", "/srv/key.pem"),
        ("[ks]ey.pem", "/srv/key.pem"),
        ("key.pem", f"/srv/{KELVIN}ey.pem"),
        ("??/**/*", "/ab/c"),
    ],
)
def test_a_path_is_found_whatever_of_its_glob_is_plain(glob: str, form: str) -> None:
    assert PathPatterns([glob]).matches([form])
