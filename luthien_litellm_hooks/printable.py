"""Foreign text made fit to read: what a terminal would obey, or an eye not see, is written out."""

import unicodedata

_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control and format characters, lone surrogates, line and paragraph separators."""
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks that have no shape of their own: joiners, fillers, blanks."""


def escape(text: str, kept: str = "\n\t") -> str:
    """The text with all that is invisible, or that would move or colour what a terminal shows, as
    `\\x1b` or `\\u202e`; only what is in `kept` stays. A model's text may be written to deceive who reads it."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if character in kept else _escaped(character) for character in text)


def one_line(text: str) -> str:
    """`text` escaped, its line ends and tabs too."""
    return escape(text.replace("\n", "\\n").replace("\t", "\\t"), kept="")


def bounded_line(text: str, length: int) -> str:
    """The first `length` characters of `text`, escaped in one line, and how many more there are."""
    cut = len(text) - length
    return one_line(text) if cut <= 0 else f"{one_line(text[:length])}... ({cut} more characters)"


def _escaped(character: str) -> str:
    if character not in _UNSEEN and unicodedata.category(character) not in _UNSEEN_CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
