"""Scripts of Codex's code mode: JavaScript in the free text of one tool, which calls others as `tools.NAME(…)`."""

import json
import re
from collections.abc import Sequence

from luthien_litellm_hooks.events import ToolCall

TOOL = "exec"
_BEGINNING = re.compile(r"""\s*(?:const|let|var)\s+[\w$]+\s*=\s*await\s+tools\.[\w$]+\s*\(\s*[{["'`]""")
"""A shell, or Python, that is given such a text runs nothing of it: its first line is a syntax error."""
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`\\$]*`)
    |(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_$][\w$]*)|(?P<mark>[-{}()\[\],;:.=<>!&|?+*%])""",
    re.DOTALL | re.VERBOSE,
)
_REACHES_OUT = frozenset({"eval", "Function", "require", "import", "process", "this", "constructor", "prototype"}) | {
    *("globalThis", "global", "window", "self", "__proto__", "fetch", "Reflect", "Proxy", "Deno", "Bun", "WebSocket")
}
_WORDS = {"true": True, "false": False, "null": None, "undefined": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": ""}
MAX_CHARACTERS = 100_000
MAX_DEPTH = 20

_Token = tuple[str, str]


def calls_of(script: str) -> tuple[ToolCall, ...] | None:
    """The calls that a script makes; None if it is none of the kind, or if one of them is not plain to read."""
    if len(script) > MAX_CHARACTERS or not _BEGINNING.match(script):
        return None
    tokens = _tokens(script)
    if tokens is None:
        return None
    calls: list[ToolCall] = []
    try:
        for place, (kind, said) in enumerate(tokens):
            if kind == "name" and said in _REACHES_OUT:
                return None
            if said == "[" and kind == "mark" and place and _ends_a_value(tokens[place - 1]):
                return None  # a member whose name is computed
            if kind == "name" and said == "tools":
                calls.append(_Literals(tokens, place + 1).call())
    except (ValueError, IndexError):
        return None
    return tuple(calls)


def _tokens(script: str) -> Sequence[_Token] | None:
    tokens: list[_Token] = []
    place = 0
    while place < len(script):
        found = _TOKEN.match(script, place)
        if found is None or found.lastgroup is None:
            return None
        place = found.end()
        if found.lastgroup != "space":
            tokens.append((found.lastgroup, found.group()))
    return tokens


def _ends_a_value(token: _Token) -> bool:
    return token[0] in ("text", "number", "name") or token[1] in ")]}"


class _Literals:
    """Reads what stands in the parentheses of a call. Raises `ValueError` and `IndexError` if it is no literal."""

    def __init__(self, tokens: Sequence[_Token], place: int) -> None:
        self._tokens = tokens
        self._place = place

    def call(self) -> ToolCall:
        self._expect(".")
        kind, name = self._next()
        self._expect("(")
        value: object = {} if self._tokens[self._place][1] == ")" else self._value(0)
        self._expect(")")
        if kind != "name":
            raise ValueError("a tool without a name")
        if isinstance(value, str):
            return ToolCall(None, name, value, "custom")
        return ToolCall(None, name, json.dumps(value, ensure_ascii=False))

    def _value(self, depth: int) -> object:
        kind, said = self._next()
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        if kind == "text":
            return _unescaped(said)
        if kind == "number":
            return json.loads(said)
        if kind == "name" and said in _WORDS:
            return _WORDS[said]
        if said == "[":
            return self._list(depth)
        if said == "{":
            return self._object(depth)
        raise ValueError("no literal")

    def _list(self, depth: int) -> list[object]:
        values: list[object] = []
        while not self._is_at("]"):
            values.append(self._value(depth + 1))
            self._separate("]")
        return values

    def _object(self, depth: int) -> dict[str, object]:
        members: dict[str, object] = {}
        while not self._is_at("}"):
            kind, said = self._next()
            key = _unescaped(said) if kind == "text" else said
            if kind not in ("text", "name") or key in members:
                raise ValueError("a key that is none, or a duplicate")
            self._expect(":")
            members[key] = self._value(depth + 1)
            self._separate("}")
        return members

    def _next(self) -> _Token:
        self._place += 1
        return self._tokens[self._place - 1]

    def _expect(self, mark: str) -> None:
        if self._next() != ("mark", mark):
            raise ValueError(f"no {mark}")

    def _is_at(self, mark: str) -> bool:
        is_at = self._tokens[self._place] == ("mark", mark)
        self._place += is_at
        return is_at

    def _separate(self, end: str) -> None:
        if self._tokens[self._place] != ("mark", end):
            self._expect(",")


def _unescaped(literal: str) -> str:
    def decode(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            raise ValueError("an unusual escape")
        return _ESCAPES[found[1]]

    return re.sub(r"\\(.)", decode, literal[1:-1], flags=re.DOTALL)
