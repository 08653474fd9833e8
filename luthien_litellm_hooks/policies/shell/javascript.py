"""JavaScript: its calls, and the values that are known without a run.

A name has every value that the code gives it anywhere, in any scope. A value that only a run would tell is `UNKNOWN`.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, product
from types import MappingProxyType

import tree_sitter_javascript
from tree_sitter import Language, Node

from luthien_litellm_hooks.policies.shell.js_names import FUNCTIONS, Names, field
from luthien_litellm_hooks.policies.shell.model import UNKNOWN, Word
from luthien_litellm_hooks.policies.shell.syntax import MAX_BYTES, parsed
from luthien_litellm_hooks.policies.shell.values import (
    ARITHMETIC,
    MAX_TEXTS,
    MODULES,
    NOTHING_KNOWN,
    TEXTS_BY_NAME,
    Array,
    Evaluator,
    Function,
    Literal,
    Name,
    Object,
    Value,
    Values,
    character,
    computed,
    decoded_text,
    listed,
    module_of,
    number,
    part_of,
    stringified,
    text_method,
    text_of,
    unescaped,
    with_member,
    word_of,
)

JAVASCRIPT = Language(tree_sitter_javascript.language())

MAX_DEPTH = 40
MAX_NODES = 60_000
"""Nodes of the largest source to read: those of 100 KB of usual code."""
MAX_WORK = 2_000
"""Limit of the parser's work, as `syntax` counts it: that of `MAX_NODES` in usual code."""
MAX_SHARED = 4
"""Number of the sources that a call's readers share."""

REQUIRES = frozenset(
    {"require", "import", "module.require", "process.mainModule.require", "process.getBuiltinModule", "createRequire()"}
)
TEMPORARY = "/tmp"  # noqa: S108 -- a text of the judged code, where nothing is written
TEXTS_BY_CALL = MappingProxyType({"os.homedir": "~", "process.cwd": ".", "Deno.cwd": ".", "os.tmpdir": TEMPORARY})
TEXT_METHODS: MappingProxyType[str, Callable[[str], str]] = MappingProxyType(
    {
        "trim": str.strip,
        "trimStart": str.lstrip,
        "trimEnd": str.rstrip,
        "toString": str,
        "toLowerCase": str.lower,
        "toUpperCase": str.upper,
    }
)


class Program(Names, Evaluator):
    """Calls and values of a source. All methods raise `TooMuchError` beyond the limits."""

    def __init__(self, root: Node) -> None:
        Names.__init__(self, root)
        Evaluator.__init__(self)

    @classmethod
    def read(cls, source: str) -> "Program | None":
        """Reads a source; None if it is too long, or too much work."""
        shared = _shared.get()
        if shared is None or source not in shared:
            program = cls._read(source)
            if shared is None or len(shared) >= MAX_SHARED:
                return program
            shared[source] = program
        program = shared[source]
        if program is not None:
            program._characters_left = MAX_TEXTS
        return program

    @classmethod
    def _read(cls, source: str) -> "Program | None":
        text = source.encode("utf-8", "replace")
        root = parsed(text, JAVASCRIPT, MAX_WORK) if len(text) <= MAX_BYTES else None
        return None if root is None or root.descendant_count > MAX_NODES else cls(root)

    def named(self, name: str) -> Values:
        """Returns all possible values of a name."""
        return self._named(name, 0)

    def texts(self, node: Node | None) -> tuple[Word, ...]:
        """Returns all possible texts of an expression."""
        return tuple(dict.fromkeys(word_of(value) for value in self.values(node)))

    def values(self, node: Node | None, depth: int = 0) -> Values:
        """Returns all possible values of an expression."""
        if node is None:
            return ()
        known = self._known.get(node.id)
        if known is not None:
            return known
        return self._cut() if depth > MAX_DEPTH else self._kept(self._known, node.id, self._values, node, depth)

    def _values(self, node: Node, depth: int) -> Sequence[Value]:
        match node.type:
            case "string":
                return [Word(unescaped(text_of(node)[1:-1]))]
            case "template_string":
                return self._joined([self._template_part(part, depth) for part in _template_parts(node)])
            case "number":
                return [number(text_of(node))]
            case "true" | "false" | "null":
                return [Literal(node.type)]
            case "undefined":
                return [Literal("null")]
            case "identifier" | "shorthand_property_identifier":
                return self._named(text_of(node), depth)
            case "binary_expression":
                return self._operation(node, depth)
            case "ternary_expression":
                parts = (node.child_by_field_name("consequence"), node.child_by_field_name("alternative"))
                return [value for part in parts for value in self.values(part, depth + 1)]
            case "parenthesized_expression" | "await_expression":
                return self.values(node.named_children[-1], depth + 1) if node.named_children else []
            case "sequence_expression":
                return self.values(node.named_children[-1], depth + 1)
            case "assignment_expression":
                return self.values(node.child_by_field_name("right"), depth + 1)
            case "array":
                return [self._array(node, depth)]
            case "object":
                return [self._object(node, depth)]
            case "member_expression":
                return self._part(field(node, "object"), [text_of(field(node, "property"))], depth)
            case "subscript_expression":
                keys = [
                    word.text if word.is_resolved else None for word in self.texts(node.child_by_field_name("index"))
                ]
                return NOTHING_KNOWN if None in keys else self._part(field(node, "object"), keys, depth)
            case "call_expression":
                return self._returned_by(node, depth)
            case "new_expression":
                return self._made(node, depth)
            case "import" | "meta_property":
                return [Name(text_of(node))]
            case "import_statement":
                return [module_of(unescaped(text_of(field(node, "source"))[1:-1]))]
            case "unary_expression" if text_of(node).startswith("-"):
                return [
                    Literal(f"-{word.text}") if word.is_resolved else word
                    for word in self.texts(node.named_children[-1])
                ]
            case _ if node.type in FUNCTIONS:
                return [Function(node)]
            case _:
                return NOTHING_KNOWN

    def _made(self, node: Node, depth: int) -> Sequence[Value]:
        made = self.values(node.child_by_field_name("constructor"), depth + 1)
        arguments = node.child_by_field_name("arguments")
        if made == (Name("URL"),) and arguments is not None and arguments.named_children:
            return [word_of(value) for value in self.values(arguments.named_children[0], depth + 1)]
        return [Name(f"{value.path}()") if isinstance(value, Name) else UNKNOWN for value in made]

    def _origins_of(self, name: str, depth: int) -> Sequence[Value]:
        if not self.is_own(name):
            return [Word(TEXTS_BY_NAME[name]) if name in TEXTS_BY_NAME else Name(MODULES.get(name, name))]
        found: list[Value] = [Function(self.functions[name])] if name in self.functions else []
        for binding in self.bindings.get(name, ()):
            values = NOTHING_KNOWN if binding.source is None else self.values(binding.source, depth + 1)
            for step in binding.path:
                values = self._bounded([part for value in values for part in part_of(value, step)])
            found += values
        if name in self.appended:
            added = [self.texts(node) for node in self.appended[name]]
            found += self._joined([tuple(dict.fromkeys(map(word_of, found))), *added])
        if name in self.pushed:
            more = tuple(self.values(node, depth + 1) for node in self.pushed[name])
            found = [
                Array(value.items + more, value.is_whole) if isinstance(value, Array) else value for value in found
            ]
        for key, node in self.set_members.get(name, ()):
            found = [with_member(value, key, self.values(node, depth + 1)) for value in found]
        return found

    def _operation(self, node: Node, depth: int) -> Sequence[Value]:
        sign = field(node, "operator").type
        left, right = field(node, "left"), field(node, "right")
        if sign in ("||", "??", "&&"):
            return [*self.values(left, depth + 1), *self.values(right, depth + 1)]
        if sign == "+":
            parts: list[Node] = [right]
            while left.type == "binary_expression" and field(left, "operator").type == "+":
                parts.append(field(left, "right"))
                left = field(left, "left")
            values = [self.values(part, depth + 1) for part in (left, *reversed(parts))]
            if not all(isinstance(value, Literal) for part in values for value in part):
                return self._joined([tuple(map(word_of, part)) for part in values])
        if sign in ARITHMETIC:
            pairs = product(self.values(left, depth + 1), self.values(right, depth + 1))
            return [computed(sign, first, second) for first, second in pairs]
        return NOTHING_KNOWN

    def _template_part(self, part: Node | str, depth: int) -> tuple[Word, ...]:
        if isinstance(part, str):
            return (Word(part),)
        inner = part.named_children
        return tuple(map(word_of, self.values(inner[0], depth + 1))) if inner else (Word(""),)

    def _array(self, node: Node, depth: int) -> Array:
        items: list[Values] = []
        is_whole = True
        for child in node.named_children:
            if child.type == "comment":
                continue
            values = self.values(_spread(child) or child, depth + 1)
            if _spread(child) is None:
                items.append(values)
            elif len(values) == 1 and isinstance(values[0], Array):
                items += values[0].items
                is_whole = is_whole and values[0].is_whole
            else:
                is_whole = False
        return Array(tuple(items), is_whole)

    def _object(self, node: Node, depth: int) -> Object:
        members: dict[str, Values] = {}
        is_whole = True
        for child in node.named_children:
            if child.type == "pair":
                keys = self._keys(field(child, "key"))
                is_whole = is_whole and None not in keys
                members |= {key: self.values(field(child, "value"), depth + 1) for key in keys if key is not None}
            elif child.type == "shorthand_property_identifier":
                members[text_of(child)] = self.values(child, depth + 1)
            elif child.type == "spread_element":
                values = self.values(_spread(child), depth + 1)
                parts = [value for value in values if isinstance(value, Object)]
                is_whole = is_whole and len(parts) == len(values) == 1 and parts[0].is_whole
                members |= {key: value for part in parts for key, value in part.members}
        return Object(tuple(members.items()), is_whole)

    def _keys(self, key: Node) -> list[str | None]:
        if key.type == "computed_property_name":
            return [word.text if word.is_resolved else None for word in self.texts(key.named_children[0])]
        return [unescaped(text_of(key)[1:-1]) if key.type == "string" else text_of(key)]

    def _part(self, of: Node, keys: Sequence[str | None], depth: int) -> list[Value]:
        holders = self.values(of, depth + 1)
        return [part for value in holders for key in keys if key is not None for part in part_of(value, key)]

    def _returned_by(self, node: Node, depth: int) -> Sequence[Value]:
        """Returns the values of a call, for the functions that put texts together."""
        function, arguments = field(node, "function"), node.child_by_field_name("arguments")
        if arguments is None or arguments.type != "arguments":
            return (
                [Word(text_of(arguments)[1:-1])] if arguments and text_of(function) == "String.raw" else NOTHING_KNOWN
            )
        given = [self.values(child, depth + 1) for child in arguments.named_children if child.type != "comment"]
        found: list[Value] = []
        if function.type == "member_expression":
            method = text_of(field(function, "property"))
            for value in self.values(field(function, "object"), depth + 1):
                if isinstance(value, Word | Literal | Array):
                    found += self._method(value, method, given, arguments, depth)
                    continue
                found += self._call_of(part_of(value, method), given, depth)
            return found
        return self._call_of(self.values(function, depth + 1), given, depth)

    def _call_of(self, functions: Sequence[Value], given: Sequence[Values], depth: int) -> list[Value]:
        found: list[Value] = []
        for function in functions:
            if isinstance(function, Function):
                found += [
                    value for node in self.returned.get(function.node.id, ()) for value in self.values(node, depth + 1)
                ]
            elif isinstance(function, Name):
                found += self._known_call(function.path, given)
            else:
                found.append(UNKNOWN)
        return found

    def _known_call(self, name: str, given: Sequence[Values]) -> Sequence[Value]:
        first = given[0] if given else ()
        texts = tuple(map(word_of, first))
        if name in TEXTS_BY_CALL:
            return [Word(TEXTS_BY_CALL[name])]
        if name in REQUIRES:
            return [module_of(word.text) if word.is_resolved else UNKNOWN for word in texts]
        match name.removeprefix("globalThis."):
            case "util.promisify" | "Array.from" | "Object.freeze" | "structuredClone":
                return first
            case "String" | "decodeURIComponent" | "url.fileURLToPath" | "path.normalize":
                return texts
            case "path.join" | "path.resolve" | "path.posix.join" | "path.posix.resolve":
                slash = (Word("/"),)
                parts = [part for each in given for part in (slash, tuple(map(word_of, each)))]
                return self._joined(parts[1:])
            case "JSON.stringify":
                return stringified(first)
            case "String.fromCharCode":
                return self._joined([tuple(map(character, each)) for each in given])
            case "atob":
                return [decoded_text(word.text, "base64") if word.is_resolved else word for word in texts]
            case "Buffer.from":
                form = next((word_of(value).text for value in given[1]), "") if len(given) > 1 else "utf8"
                return [decoded_text(word.text, form) if word.is_resolved else word for word in texts]
            case "Object.values" | "Object.keys" | "Object.entries":
                return [listed(value, name) for value in first]
            case _ if name.endswith(".create"):  # a client with settings of its own
                return [Name(name.removesuffix(".create"))]
            case _ if name.endswith("createRequire"):
                return [Name("require")]
            case _:
                return NOTHING_KNOWN

    def _method(
        self, value: Word | Literal | Array, method: str, given: Sequence[Values], arguments: Node, depth: int
    ) -> Sequence[Value]:
        texts = [tuple(map(word_of, each)) for each in given]
        plain = [each[0] for each in texts if len(each) == 1 and each[0].is_resolved]
        if isinstance(value, Array):
            return self._method_of_array(value, method, given, arguments, depth)
        word = word_of(value)
        if method in TEXT_METHODS:
            return [Word(TEXT_METHODS[method](word.text)) if word.is_resolved else word]
        if method == "concat":
            return self._joined([(word,), *texts])
        if not word.is_resolved or len(plain) != len(given):
            return NOTHING_KNOWN
        return text_method(word.text, method, [each.text for each in plain])

    def _method_of_array(
        self, value: Array, method: str, given: Sequence[Values], arguments: Node, depth: int
    ) -> Sequence[Value]:
        first = given[0] if given else (Word(","),)
        match method:
            case "join" if value.is_whole and len(first) == 1:
                parts = [
                    part for item in value.items for part in (tuple(map(word_of, first)), tuple(map(word_of, item)))
                ]
                return self._joined(parts[1:])
            case "map" | "flatMap":
                found = self._call_of(first, [tuple(chain(*value.items))], depth)
                return [Array(tuple((each,) for each in found), value.is_whole)]
            case "slice" if all(isinstance(each, Literal) for each in first) and len(first) == 1 == len(given):
                start = word_of(first[0]).text
                return [Array(value.items[int(start) :], value.is_whole)] if start.isdecimal() else [value]
            case "filter" | "sort" | "slice" | "flat" | "toSorted" | "values":
                return [value]
            case "reverse" | "toReversed":
                return [Array(value.items[::-1], value.is_whole)]
            case "concat":
                more = [each for values in given for each in values]
                lists = [each for each in more if isinstance(each, Array)]
                return [Array(tuple(chain(value.items, *(each.items for each in lists))), len(lists) == len(more))]
            case "at" | "pop" | "shift" | "find":
                return list(chain(*value.items))
            case _:
                return NOTHING_KNOWN


def _spread(node: Node) -> Node | None:
    return node.named_children[0] if node.type == "spread_element" and node.named_children else None


def _template_parts(node: Node) -> Iterator[Node | str]:
    """Yields the texts and the substitutions of a template."""
    source, start, place = node.text or b"", node.start_byte, 1
    for child in node.named_children:
        if child.type == "template_substitution":
            yield unescaped(source[place : child.start_byte - start].decode("utf-8", "replace"))
            yield child
            place = child.end_byte - start
    yield unescaped(source[place:-1].decode("utf-8", "replace"))


_shared: ContextVar[dict[str, Program | None] | None] = ContextVar("shared programs", default=None)


@contextmanager
def shared_programs() -> Generator[None]:
    """Lets all readers of a source share one reading of it, until the block ends."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)
