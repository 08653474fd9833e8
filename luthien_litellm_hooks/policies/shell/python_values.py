"""Python: its calls, and the values that are known without a run.

A name has every value that the code gives it anywhere, in any scope. A value that only a run would tell is `UNKNOWN`.
"""

import ast
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from types import MappingProxyType

from luthien_litellm_hooks.policies.shell.model import UNKNOWN, Word
from luthien_litellm_hooks.policies.shell.values import (
    EVERY,
    MAX_ALTERNATIVES,
    NOTHING_KNOWN,
    Array,
    Evaluator,
    Literal,
    Name,
    Step,
    Value,
    Values,
    decoded_text,
    part_of,
    text_method,
    word_of,
)
from luthien_litellm_hooks.policies.shell.words import PIECE_COST

MAX_SOURCE = 65_536
"""Characters of the longest Python source to read."""
MAX_DEPTH = 30

PATHS = ("pathlib.Path", "pathlib.PurePath", "pathlib.PosixPath", "pathlib.PurePosixPath")
TEMPORARY = "/tmp/luthien"  # noqa: S108 -- a text of the judged code, where nothing is written
TEXTS_BY_NAME = MappingProxyType({"os.sep": "/", "os.path.sep": "/", "sys.executable": "python3", "__file__": "./x.py"})
TEXTS_BY_CALL = MappingProxyType(
    {
        **dict.fromkeys(("os.getcwd", "pathlib.Path.cwd"), "."),
        **dict.fromkeys(("pathlib.Path.home",), "~"),
        **dict.fromkeys(("tempfile.mkdtemp", "tempfile.TemporaryDirectory", "tempfile.mktemp"), TEMPORARY),
        **dict.fromkeys(("tempfile.gettempdir",), posixpath.dirname(TEMPORARY)),
    }
)
SAME_TEXT = frozenset(
    {"str", "os.path.expanduser", "os.path.abspath", "os.path.realpath", "os.path.normpath", "os.fspath", "bytes"}
    | {"os.path.expandvars", "shlex.quote", "compile", "textwrap.dedent", "list", "tuple", "sorted", "set", "reversed"}
    | {"urllib.request.Request", "urllib.parse.unquote", "os.fsencode", "iter"}
)
"""Functions whose value is their first argument, for what is judged here."""
SAME_METHODS = frozenset(
    {"expanduser", "resolve", "absolute", "decode", "encode", "strip", "rstrip", "as_posix", "read"}
    | {"__str__", "__enter__", "copy", "lstrip"}
)
VARIABLE = re.compile(r"^os\.(?:getenv|environ(?:b|\.get|\.setdefault)?)$")
HOME = frozenset({"HOME", "USERPROFILE"})
PLACEHOLDER = re.compile(r"\{(\w*)(?:![rs])?(?::[^{}]*)?\}")
PERCENT = re.compile(r"%[sdr]")

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Module(Evaluator):
    """Calls and values of a source. All methods raise `TooMuchError` beyond the limits."""

    def __init__(self, tree: ast.Module) -> None:
        super().__init__()
        self.calls: list[ast.Call] = []
        self._modules: dict[str, str] = {}
        self._stars: list[str] = []
        self._origins: dict[str, list[tuple[ast.expr | None, tuple[Step, ...]]]] = {}
        self._added: dict[str, list[ast.expr]] = {}
        self._functions: dict[str, Function] = {}
        self._results: dict[int, Values] = {}
        self._calling: set[int] = set()
        for node in ast.walk(tree):
            self._note(node)
        for call in self.calls:
            self._bind_call(call)

    # Collection of the names

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Call():
                self.calls.append(node)
            case ast.Import():
                for name in node.names:
                    plain = name.name if name.asname else name.name.partition(".")[0]
                    self._modules[name.asname or plain] = plain
            case ast.ImportFrom():
                self._stars += [node.module or "" for name in node.names if name.name == "*"]
                self._modules |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
            case ast.Assign():
                for target in node.targets:
                    self._bind(target, node.value)
            case ast.AnnAssign() | ast.NamedExpr() if node.value is not None:
                self._bind(node.target, node.value)
            case ast.AugAssign(target=ast.Name(id=name)):
                self._added.setdefault(name, []).append(node.value)
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                self._bind(node.target, node.iter, (EVERY,))
            case ast.withitem(optional_vars=ast.expr() as target):
                self._bind(target, node.context_expr)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._functions[node.name] = node
                self._bind_defaults(node)
            case ast.Lambda():
                self._bind_defaults(node)
            case _:
                pass

    def _bind(self, target: ast.expr, source: ast.expr | None, path: tuple[Step, ...] = ()) -> None:
        match target:
            case ast.Name(id=name):
                self._origins.setdefault(name, []).append((source, path))
                if isinstance(source, ast.Lambda) and not path:
                    self._functions[name] = source
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for place, part in enumerate(parts):
                    self._bind(part, source, (*path, place))
            case _:
                pass

    def _bind_defaults(self, function: Function) -> None:
        given = function.args
        parameters = [*given.posonlyargs, *given.args]
        defaults = dict(zip((each.arg for each in reversed(parameters)), reversed(given.defaults), strict=False))
        defaults |= {
            each.arg: value
            for each, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)
            if value is not None
        }
        for parameter in (*parameters, *given.kwonlyargs):
            origins = self._origins.setdefault(parameter.arg, [])
            if parameter.arg in defaults:
                origins.append((defaults[parameter.arg], ()))

    def _bind_call(self, call: ast.Call) -> None:
        """Binds the parameters of the source's own functions, and the items added to a list."""
        match call.func:
            case ast.Name(id=name) if name in self._functions:
                self._bind_parameters(self._functions[name], call)
            case ast.Lambda():
                self._bind_parameters(call.func, call)
            case ast.Attribute(value=ast.Name(id=name), attr="append" | "extend" | "add" | "insert"):
                is_list = call.func.attr == "extend"
                self._added.setdefault(name, []).extend(
                    call.args[-1:] if is_list else [ast.List(elts=call.args[-1:], ctx=ast.Load())]
                )
            case _:
                pass

    def _bind_parameters(self, function: Function, call: ast.Call) -> None:
        parameters = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        for name, value in zip(parameters, call.args, strict=False):
            self._origins.setdefault(name, []).append((value, ()))
        for keyword in call.keywords:
            if keyword.arg is not None:
                self._origins.setdefault(keyword.arg, []).append((keyword.value, ()))

    def sources(self, name: str) -> list[ast.expr]:
        """Returns the expressions whose values, or parts of them, a name has."""
        return [source for source, _ in self._origins.get(name, ()) if source is not None]

    # Values

    def texts(self, node: ast.expr | None) -> tuple[Word, ...]:
        """Returns all possible texts of an expression."""
        return tuple(dict.fromkeys(map(word_of, self.values(node))))

    def values(self, node: ast.expr | None, depth: int = 0) -> Values:
        """Returns all possible values of an expression."""
        if node is None:
            return NOTHING_KNOWN
        known = self._known.get(id(node))
        if known is not None:
            return known
        return self._cut() if depth > MAX_DEPTH else self._kept(self._known, id(node), self._values, node, depth + 1)

    def _bounded(self, found: Iterable[Value]) -> Values:
        self._charge(PIECE_COST)
        return super()._bounded(found) or NOTHING_KNOWN

    def _values(self, node: ast.expr, depth: int) -> Iterable[Value]:
        match node:
            case ast.Constant(value=bytes() as value):
                return [Word(value.decode("utf-8", "replace"))]
            case ast.Constant(value=str() as value):
                return [Word(value)]
            case ast.Constant(value=value):
                return [Literal(str(value).lower())]
            case ast.Name(id=name):
                return self._named(name, depth)
            case ast.Attribute(value=of, attr=name):
                return chain(*(self._attribute(value, name) for value in self.values(of, depth)))
            case ast.BinOp():
                return self._operation(node, depth)
            case ast.JoinedStr(values=parts):
                return self._joined([tuple(map(word_of, self.values(part, depth))) for part in parts])
            case ast.FormattedValue(value=value) | ast.Await(value=value) | ast.NamedExpr(value=value):
                return self.values(value, depth)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return [Literal(f"-{word.text}") if word.is_resolved else word for word in self.texts(operand)]
            case ast.IfExp(body=first, orelse=second):
                return (*self.values(first, depth), *self.values(second, depth))
            case ast.BoolOp(values=parts):
                return chain(*(self.values(part, depth) for part in parts))
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                return [self._array(parts, depth)]
            case ast.ListComp(elt=item) | ast.GeneratorExp(elt=item) | ast.SetComp(elt=item):
                return [Array((self.values(item, depth),), is_whole=False)]
            case ast.Subscript(value=of, slice=key):
                return self._item(of, key, depth)
            case ast.Call():
                return self._returned(node, depth)
            case _:
                return NOTHING_KNOWN

    def _origins_of(self, name: str, depth: int) -> Iterable[Value]:
        if name not in self._origins:
            if name in self._functions:
                return NOTHING_KNOWN
            if name in self._modules:
                return [_known_name(self._modules[name])]
            return [_known_name(name), *(_known_name(f"{module}.{name}") for module in self._stars)]
        found: list[Value] = [Name(self._modules[name])] if name in self._modules else []
        for source, path in self._origins[name] or [(None, ())]:
            values = self.values(source, depth)
            for step in path:
                values = self._bounded(part for value in values for part in part_of(value, step))
            found += values
        added = [value for node in self._added.get(name, ()) for value in self.values(node, depth)]
        if added and any(isinstance(value, Array) for value in found):
            items = tuple(chain(*(value.items for value in added if isinstance(value, Array))))
            found = [Array(value.items + items, value.is_whole) for value in found if isinstance(value, Array)]
        elif added:
            found += self._joined([tuple(map(word_of, found)), tuple(map(word_of, added))])
        return found

    def _attribute(self, value: Value, name: str) -> Iterable[Value]:
        match value:
            case Name(path):
                return [_known_name(f"{path}.{name}")]
            case Word(text, is_resolved) if name in ("parent", "name", "path", "anchor"):
                parts = {"parent": posixpath.dirname(text) or ".", "name": posixpath.basename(text), "path": text}
                return [Word(parts.get(name, "/"), is_resolved)]
            case _:
                return NOTHING_KNOWN

    def _operation(self, node: ast.BinOp, depth: int) -> Iterable[Value]:
        if isinstance(node.op, ast.Add):
            parts = [node.right]
            left = node.left
            while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
                parts.append(left.right)
                left = left.left
            values = [self.values(part, depth) for part in (left, *reversed(parts))]
            lists = [value for each in values for value in each if isinstance(value, Array)]
            if len(lists) == len(values):
                return [Array(tuple(chain(*(value.items for value in lists))), all(value.is_whole for value in lists))]
            return self._joined([tuple(map(word_of, each)) for each in values])
        left_texts = tuple(map(word_of, self.values(node.left, depth)))
        right = self.values(node.right, depth)
        match node.op:
            case ast.Div():
                return (_path((first, second)) for first, second in product(left_texts, map(word_of, right)))
            case ast.Mod():
                given = [value.items if isinstance(value, Array) else ((value,),) for value in right]
                return chain(*(self._filled(word, PERCENT, each) for word in left_texts for each in given))
            case ast.Mult():
                times = [word_of(value).text for value in right]
                return [
                    value
                    for word in left_texts
                    for count in times
                    for value in text_method(word.text, "repeat", [count])
                ]
            case _:
                return NOTHING_KNOWN

    def _filled(self, template: Word, mark: re.Pattern[str], given: Sequence[Values]) -> Iterable[Value]:
        """Returns a text with the given values instead of its marks, in their order."""
        if not template.is_resolved:
            return NOTHING_KNOWN
        parts: list[Sequence[Word]] = []
        end = place = 0
        for found in mark.finditer(template.text):
            number = int(found[1]) if found.groups() and (found[1] or "").isdecimal() and len(found[1]) < 4 else place
            is_given = number < len(given) and not (found.groups() and found[1] and not found[1].isdecimal())
            values = tuple(map(word_of, given[number])) if is_given else (UNKNOWN,)
            parts += ((Word(template.text[end : found.start()]),), values)
            end, place = found.end(), place + 1
        return self._joined([*parts, (Word(template.text[end:]),)])

    def _array(self, parts: Sequence[ast.expr], depth: int) -> Array:
        items: list[Values] = []
        is_whole = True
        for part in parts:
            if not isinstance(part, ast.Starred):
                items.append(self.values(part, depth))
                continue
            lists = self.values(part.value, depth)
            is_whole = is_whole and len(lists) == 1 and isinstance(lists[0], Array) and lists[0].is_whole
            items += lists[0].items if isinstance(lists[0], Array) else ()
        return Array(tuple(items), is_whole)

    def _item(self, of: ast.expr, key: ast.expr, depth: int) -> Iterator[Value]:
        is_reversed = isinstance(key, ast.Slice) and isinstance(key.step, ast.UnaryOp)
        keys = [] if isinstance(key, ast.Slice) else [word_of(value) for value in self.values(key, depth)]
        for value in self.values(of, depth):
            match value:
                case Name(path) if VARIABLE.match(path):
                    yield from (Word("~") if word.text in HOME else UNKNOWN for word in keys)
                case Word(text, True) if is_reversed:
                    yield Word(text[::-1])
                case Array(items) if isinstance(key, ast.Slice):
                    yield Array(items[::-1] if is_reversed else items, value.is_whole and is_reversed)
                case Array():
                    yield from (part for word in keys for part in part_of(value, word.text))
                case _:
                    yield UNKNOWN

    # Values of calls

    def _returned(self, call: ast.Call, depth: int) -> Iterable[Value]:
        given = self._array(call.args, depth).items
        found: list[Value] = []
        if isinstance(call.func, ast.Attribute):
            for value in self.values(call.func.value, depth):
                if not isinstance(value, Name):
                    found += self._method(value, call.func.attr, given)
        if isinstance(call.func, ast.Name) and call.func.id in self._functions:
            return self._returned_by(self._functions[call.func.id], depth)
        if isinstance(call.func, ast.Lambda):
            return self.values(call.func.body, depth)
        for value in self.values(call.func, depth):
            if isinstance(value, Name):
                found += self._known_call(value.path, given)
        return found or NOTHING_KNOWN

    def _returned_by(self, function: Function, depth: int) -> Iterable[Value]:
        if isinstance(function, ast.Lambda):
            return self.values(function.body, depth)
        known = self._results.get(id(function))
        if known is None and id(function) in self._calling:
            return self._cut()
        if known is None:
            self._calling.add(id(function))
            results = [node.value for node in ast.walk(function) if isinstance(node, ast.Return | ast.Yield)]
            known = self._bounded(chain(*(self.values(each, depth) for each in results)))
            self._calling.discard(id(function))
            self._results[id(function)] = known
        return known

    def _known_call(self, name: str, given: Sequence[Values]) -> Iterable[Value]:
        first = given[0] if given else ()
        texts = tuple(map(word_of, first))
        if name in TEXTS_BY_CALL:
            return [Word(TEXTS_BY_CALL[name])]
        if VARIABLE.match(name):
            return [Word("~") if word.text in HOME else UNKNOWN for word in texts]
        if name in SAME_TEXT:
            return first
        match name:
            case "__import__" | "importlib.import_module" | "import_module":
                return [Name(word.text) if word.is_resolved else UNKNOWN for word in texts]
            case "getattr" if len(given) > 1:
                return [
                    part for value in first for key in given[1] for part in self._attribute(value, word_of(key).text)
                ]
            case "os.path.join":
                return [_path(words) for words in self._combined(given)]
            case "os.path.dirname":
                return [Word(posixpath.dirname(word.text) or ".", word.is_resolved) for word in texts]
            case "base64.b64decode" | "base64.standard_b64decode" | "base64.urlsafe_b64decode":
                return [decoded_text(word.text, "base64") if word.is_resolved else word for word in texts]
            case "bytes.fromhex" | "bytearray.fromhex" | "binascii.unhexlify":
                return [decoded_text(word.text, "hex") if word.is_resolved else word for word in texts]
            case "chr":
                return [
                    Word(chr(int(word.text))) if word.text.isdecimal() and int(word.text) < 0xD800 else UNKNOWN
                    for word in texts
                ]
            case "shlex.split":
                return [_split(word) for word in texts]
            case "glob.glob" | "glob.iglob":
                return [Array((texts,), is_whole=False)]
            case "os.walk":
                folders = tuple(_path((word, Word("**"))) for word in texts)
                return [Array(((Array((folders, NOTHING_KNOWN, NOTHING_KNOWN)),),), is_whole=False)]
            case "os.scandir" | "os.listdir":
                found = tuple(_path((word, Word("*"))) for word in texts) if name == "os.scandir" else (Word("*"),)
                return [Array((found,), is_whole=False)]
            case "enumerate":
                return [
                    Array(
                        tuple(
                            (Array((NOTHING_KNOWN, item)),)
                            for value in first
                            if isinstance(value, Array)
                            for item in value.items
                        )
                    )
                ]
            case _ if name in PATHS:
                return [_path(words) for words in self._combined(given)] if given else [Word(".")]
            case _:
                return [Name(f"{name}()")]

    def _combined(self, given: Sequence[Values]) -> Iterator[tuple[Word, ...]]:
        count = 1
        for values in given:
            count *= len(values)
        words = [tuple(map(word_of, values)) if count <= MAX_ALTERNATIVES else (UNKNOWN,) for values in given]
        return product(*words)

    def _method(self, value: Value, method: str, given: Sequence[Values]) -> Iterable[Value]:
        if isinstance(value, Array):
            return NOTHING_KNOWN
        word = word_of(value)
        plain = [word_of(each[0]).text for each in given if len(each) == 1 and word_of(each[0]).is_resolved]
        match method:
            case "join":
                lists = [each for each in (given[0] if given else ()) if isinstance(each, Array)]
                pieces = [
                    [part for item in each.items for part in ((word,), tuple(map(word_of, item)))] for each in lists
                ]
                return chain(*(self._joined(each[1:]) for each in pieces))
            case "format":
                return self._filled(word, PLACEHOLDER, given)
            case "split" | "splitlines":
                separator = plain[0] if plain else None
                return (
                    [Array(tuple((Word(part),) for part in word.text.split(separator)[:1000]))]
                    if word.is_resolved
                    else NOTHING_KNOWN
                )
            case "glob" | "rglob" | "iterdir":
                pattern = plain[0] if plain else "*"
                return [
                    Array(
                        ((_path((word, *((Word("**"),) if method == "rglob" else ()), Word(pattern))),),),
                        is_whole=False,
                    )
                ]
            case "joinpath":
                return (_path((word, *words)) for words in self._combined(given))
            case "replace" if len(plain) == 2 and word.is_resolved:
                return [Word(word.text.replace(plain[0], plain[1]))]
            case "lower" | "upper" | "swapcase" | "title" if word.is_resolved:
                return [Word(getattr(word.text, method)())]
            case _:
                return [word] if method in SAME_METHODS else NOTHING_KNOWN


def _known_name(path: str) -> Value:
    if path in TEXTS_BY_NAME:
        return Word(TEXTS_BY_NAME[path])
    return Name(f"pathlib.{path}" if path.partition(".")[0] in ("Path", "PurePath", "PosixPath") else path)


def _path(words: Sequence[Word]) -> Word:
    """Returns the path of some parts; an absolute one drops the parts before it."""
    text = posixpath.join(*(word.text for word in words)) if words else "."
    return Word(text, all(word.is_resolved for word in words))


def _split(word: Word) -> Value:
    try:
        return Array(tuple((Word(part),) for part in shlex.split(word.text))) if word.is_resolved else UNKNOWN
    except ValueError:
        return UNKNOWN
