"""Patterns that users write: what they match, how they are refused, and that no text makes them hang."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien_litellm_hooks.policies.rewriting.partial_match import EDGE, Part, any_case, either, maybe, plain, run, then
from luthien_litellm_hooks.policy.json_strings import map_json_strings
from luthien_litellm_hooks.policy.patterns import Pattern, compile_pattern, glob_pattern


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a(", "bad pattern 'a(': missing ): a( (character 1)"),
        (r"(a)\1", r"invalid escape sequence: \1 (character 4); look-around and back-references are not supported"),
        ("x(?=y)", "invalid perl operator: (?= (character 2); look-around and back-references are not supported"),
        ("x(?<!y)", "look-around and back-references are not supported"),
        ("a{1001}", "invalid repetition size: {1001} (character 2)"),
        ("[z-a]", "invalid character class range: z-a (character 2)"),
        ("\ud800", "half of a surrogate pair"),
        (r"\pL{9}", "too large"),
    ],
)
def test_a_bad_pattern_is_refused_with_its_cause_and_place(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match="bad pattern") as caught:
        compile_pattern(pattern)
    assert said in str(caught.value)


def test_places_are_counted_in_characters() -> None:
    match = compile_pattern("(ß+)(x)?").search("äö🙂ßß!")
    assert match is not None
    assert (match.span(), match.span(1), match.span(2), match.group(2)) == ((3, 5), (3, 5), (-1, -1), None)


def test_a_search_sees_what_stands_around_its_limits() -> None:
    assert compile_pattern(r"\bfoo").search("a foo", 2) is not None
    assert compile_pattern(r"\bfoo").search("afoo", 1) is None
    assert compile_pattern(r"foo\b").search("foobar", 0, 3) is None
    assert compile_pattern("^foo").search("afoo", 1) is None


def test_half_of_a_surrogate_pair_is_searched_like_any_character() -> None:
    found = compile_pattern("b").search("a\ud83db")
    assert found is not None
    assert found.span() == (2, 3)
    assert compile_pattern(r"\?").search("\ud83d") is None


def test_matches_are_replaced_with_text_as_it_is() -> None:
    assert compile_pattern("(?i)a+").sub(lambda match: rf"<\1{match.group()}>", "xAaY") == r"x<\1Aa>Y"
    assert compile_pattern("a", ignore_case=True).fullmatch("A") is not None


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|aa)+$", "(a|a?)+$", r"(.*a){12}$", r"(x+x+)+y", "([a-zA-Z]+)*$", r"(a?){30}a{30}$"]
)
def test_a_hostile_pattern_takes_time_in_proportion_to_the_text(pattern: str) -> None:
    compiled = compile_pattern(pattern)

    def seconds(characters: int) -> float:
        text = "a" * characters + "!"
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            compiled.search(text)
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(1_000_000) < max(40 * seconds(100_000), 0.5)


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("/etc/**", ["/etc", "/etc/", "/etc/passwd", "/etc/a/b"], ["/etcetera", "/var/etc/x"]),
        ("**/.env", [".env", "a/.env", "/a/b/.env"], ["x.env", ".env/x"]),
        ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b"], ["/ab", "/a/xb"]),
        ("*.pem", ["a.pem", ".pem"], ["a/b.pem", "a.pem.txt"]),
        ("mcp__*__delete*", ["mcp__db__delete_row"], ["mcp__db__read"]),
        ("id_?sa", ["id_rsa", "id_dsa"], ["id_/sa", "id_sa", "id_rrsa"]),
        ("[!a-c]x", ["dx", "-x"], ["ax", "/x"]),
        ("[]x]", ["]", "x"], ["[", "[]x]"]),
        ("{a,b*}.c", ["a.c", "bzz.c"], ["c.c", "{a,b*}.c"]),
        (r"\*[", ["*["], ["a["]),
        ("a.b", ["a.b"], ["axb"]),
        ("*", ["two\nlines", ""], ["a/b"]),
    ],
)
def test_a_glob_means_what_it_says(glob: str, matching: list[str], other: list[str]) -> None:
    pattern = glob_pattern(glob)
    assert [text for text in matching if not pattern.fullmatch(text)] == []
    assert [text for text in other if pattern.fullmatch(text)] == []


def test_a_bad_glob_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bad glob '\[z-a\]'"):
        glob_pattern("[z-a]")


PARTS: list[tuple[Part, str]] = [
    (then(EDGE, plain("ab", "abc"), run("[0-9]", 2, 3), EDGE), "abc12"),
    (then(plain("a"), maybe(plain("bb")), either(plain("cc"), run("x", 1, 4))), "abbxx"),
    (any_case(then(plain("key"), run("[ ]", 0, 2), plain("="), run("[a-f]", 4))), "Key =abcdef"),
    (then(plain("eyJ"), run("[a-z]", 2), plain(".eyJ"), run("[a-z]", 2)), "eyJab.eyJcd"),
]


@pytest.mark.parametrize(("part", "match"), PARTS)
def test_a_part_knows_every_beginning_of_its_matches(part: Part, match: str) -> None:
    assert compile_pattern(part.whole).fullmatch(match) is not None
    begun = Pattern(rf"(?:{part.begun})\z")
    for length in range(1, len(match)):
        found = begun.search("  " + match[:length])
        assert found is not None
        assert found.start() == 2, match[:length]


@given(st.text(alphabet="abc12x ", max_size=12), st.text(alphabet="abc12x ", max_size=12))
def test_what_a_beginning_does_not_match_no_text_can_complete(text: str, more: str) -> None:
    for part, _ in PARTS:
        begun = Pattern(rf"(?:{part.begun})\z").search(text)
        place = len(text) if begun is None else begun.start()
        alone, longer = (compile_pattern(part.whole).finditer(given) for given in (text, text + more))
        settled = [match.span() for match in longer if match.start() < place]
        assert [match.span() for match in alone if match.start() < place] == settled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": "x", "x": [1.0, 1e5, "x"]}', '{"a": "X", "x": [1.0, 1e5, "X"]}'),
        ('{"a":\t"\\u0078\\n", "a": "y"}', '{"a":\t"X\\n", "a": "Y"}'),
        ('"x"', '"X"'),
        ('{"a": "\\ud800x"}', '{"a": "\\ud800X"}'),
        ('{"a": "é"}', '{"a": "É"}'),
        ("{}", "{}"),
        ('{"a": ', None),
        ("rm x", None),
    ],
)
def test_only_the_strings_of_a_json_text_are_changed(text: str, expected: str | None) -> None:
    assert map_json_strings(text, str.upper) == expected


@given(st.text(alphabet=list("[]!^-a{},*?/\\"), max_size=8))
def test_any_glob_is_read_or_refused_as_bad(glob: str) -> None:
    try:
        pattern = glob_pattern(glob)
    except ValueError:
        return
    assert pattern.fullmatch("x" * 99 + "/") is None or "*" in glob
