"""The variables of a script: every value that each may have, and the commands that those values come from."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from tree_sitter import Node

from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_syntax import text_of
from luthien_litellm_hooks.parsing.shell_words import MAX_ALTERNATIVES, Scope, Value, text_words, words_of

MAX_ELEMENTS = 256
"""A longer array counts as unknown."""

WELL_KNOWN = (("HOME", "~"), ("IFS", " "))
POSITIONAL = ("@", "*", *"123456789")


class Variables:
    """A variable without values is unknown."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Value, ...]] = {name: ((Word(text),),) for name, text in WELL_KNOWN}
        self._sources: dict[str, tuple[Command, ...]] = {}
        self._is_conditional = False
        self._replaced: list[tuple[str, tuple[Value, ...] | None]] = []
        """What a subshell has set, with what was there before."""

    def values(self, name: str) -> tuple[Value, ...]:
        """Every value that the variable may have; empty if unknown."""
        return self._values.get(name, ())

    def sources(self, name: str) -> tuple[Command, ...]:
        """The commands whose output is part of its values."""
        return self._sources.get(name, ())

    def assign(self, assignment: Node, values: tuple[Value, ...], sources: Sequence[Command]) -> None:
        """`X=values`, `X+=values` or `X[0]=values`; the output of `sources` is part of `values`."""
        named = assignment.child_by_field_name("name")
        if named is None:
            return
        name = text_of(named).partition("[")[0]
        if any(child.type == "+=" for child in assignment.children):
            values = _appended(self.values(name), values)
        self._sources[name] = (*self.sources(name), *sources)[:MAX_ALTERNATIVES]
        self.set(name, values if named.type != "subscript" else (*self.values(name), *values))

    def set(self, name: str, values: tuple[Value, ...]) -> None:
        """Where it is not sure that the script gets here, the old values stay possible."""
        if not values or (self._is_conditional and self._values.get(name) == ()):
            self._put(name, ())
            return
        old = self.values(name) if self._is_conditional else ()
        self._put(name, _bounded(tuple(dict.fromkeys((*old, *values)))))

    def set_in_turn(self, name: str, values: tuple[Value, ...]) -> None:
        """Set the variable of a loop: within the loop it has no other values."""
        self._put(name, _bounded(values))

    def set_positional(self, words: tuple[Word, ...]) -> None:
        """`$1` and the like."""
        for name in "@*":
            self._put(name, (words,) if len(words) <= MAX_ELEMENTS else ())
        for number in range(1, 10):
            self._put(str(number), ((words[number - 1],),) if number <= len(words) else ())

    def _put(self, name: str, values: tuple[Value, ...]) -> None:
        self._replaced.append((name, self._values.get(name)))
        self._values[name] = values

    @contextmanager
    def positional(self, words: tuple[Word, ...]) -> Generator[None]:
        """Within a function: its arguments stand for those of the script."""
        outer = {name: self.values(name) for name in POSITIONAL}
        self.set_positional(words)
        yield
        for name, values in outer.items():
            self._put(name, values)

    @contextmanager
    def isolated(self) -> Generator[None]:
        """Within a subshell: what is set is gone afterwards."""
        outer, self._replaced = self._replaced, []
        yield
        for name, values in reversed(self._replaced):
            if values is None:
                self._values.pop(name, None)
            else:
                self._values[name] = values
        self._replaced = outer

    @contextmanager
    def conditional(self) -> Generator[None]:
        """Where it is not sure that the script gets."""
        outer, self._is_conditional = self._is_conditional, True
        yield
        self._is_conditional = outer


def assigned_values(assignment: Node, scope: Scope) -> tuple[Value, ...]:
    """The values on the right-hand side."""
    value = assignment.child_by_field_name("value")
    if value is None:
        return ((Word(""),),)
    if value.type == "array":
        words = tuple(word for child in value.named_children for word in words_of(child, scope))
        return (words,) if len(words) <= MAX_ELEMENTS else ()
    return tuple((word,) for word in text_words(value, scope))


def _bounded(values: tuple[Value, ...]) -> tuple[Value, ...]:
    return values if len(values) <= MAX_ALTERNATIVES else ()


def _appended(old: tuple[Value, ...], new: tuple[Value, ...]) -> tuple[Value, ...]:
    """`X+=text` and `X+=(more)`, for each pair of values."""
    return tuple(
        (*before, *after)
        if len(before) != 1 or len(after) != 1
        else (Word(before[0].text + after[0].text, before[0].is_resolved and after[0].is_resolved),)
        for before in old or ((Word(""),),)
        for after in new
    )
