"""Backslash escapes, as `$'...'`, `echo -e` and `printf` know them."""

import re

NAMED = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,4})|c(.)|(.))", re.DOTALL
)


def without_escapes(text: str) -> str:
    """`text` with its escapes replaced by what they stand for."""
    return ESCAPE.sub(_decoded, text)


def _decoded(found: re.Match[str]) -> str:
    if hexadecimal := found[1] or found[2] or found[3]:
        code = int(hexadecimal, 16)
        return chr(code) if 0 < code <= 0x10FFFF else ""
    if octal := found[4]:
        return chr(int(octal, 8) % 256)
    if control := found[5]:
        return chr(ord(control) & 0x1F)
    return NAMED.get(found[6], found[6])
