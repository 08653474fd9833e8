"""What Python source runs or destroys, where it says so with literals: `os.system('...')`, `shutil.rmtree('/')`."""

import ast
import base64
import binascii
from collections.abc import Iterator

from luthien_litellm_hooks.parsing.shell_model import Word
from luthien_litellm_hooks.parsing.shell_words import PIECE_COST, TooMuchError

SHELL_CALLS = frozenset(
    {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn", "commands.getoutput"}
)
PROCESS_CALLS = frozenset(f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output", "Popen")) | {
    "asyncio.create_subprocess_shell",
    "sh.Command",
}
AS_COMMANDS = {
    "shutil.rmtree": ("rm", "-rf"),
    "os.removedirs": ("rmdir", "-p"),
    "os.remove": ("rm",),
    "os.unlink": ("rm",),
    "os.rmdir": ("rmdir",),
    "os.truncate": ("truncate", "-s", "0"),
    "os.chmod": ("chmod", "0"),
    "shutil.move": ("mv",),
    "shutil.copy": ("cp",),
    "shutil.copyfile": ("cp",),
    "os.rename": ("mv",),
    "urllib.request.urlopen": ("curl",),
    "requests.get": ("curl",),
    "requests.post": ("curl",),
    "httpx.get": ("curl",),
    "httpx.post": ("curl",),
}
"""Calls that do what a shell command does."""

MAX_SOURCE = 65_536
"""Longer Python is not read."""

MAX_TEXTS = 1_000_000
"""Characters of all values of one source together, wherever they stand."""

Runs = str | tuple[Word, ...]
"""A script for the shell, or a program with its arguments."""


def runs_of_python(source: str, depth: int = 0) -> Iterator[Runs] | None:
    """What `source` runs; None if it is no Python. Something empty stands for what was not read."""
    if len(source) > MAX_SOURCE:
        return iter([()])
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _runs(tree, depth)


def _runs(tree: ast.Module, depth: int) -> Iterator[Runs]:
    names = _Names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _runs_of_call(node, names, depth)


class _Names:
    """What the names of a module stand for: modules and functions imported, and literals assigned."""

    def __init__(self, tree: ast.Module) -> None:
        self.imported: dict[str, str] = {}
        self.values: dict[str, ast.expr] = {}
        self._characters_left = MAX_TEXTS
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self.imported |= {name.asname: name.name for name in node.names if name.asname}
            elif isinstance(node, ast.ImportFrom):
                self.imported |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.values[node.targets[0].id] = node.value

    def dotted(self, node: ast.expr) -> str:
        """The full name of a function, such as `os.system`; "" if it has none."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            return ".".join([self.imported.get(node.id, node.id), *reversed(parts)])
        called = self.dotted(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and called in ("__import__", "importlib.import_module"):
            module = self.text(node.args[0]) if node.args else Word("")
            return ".".join([module.text, *reversed(parts)])
        if called in ("pathlib.Path", "Path"):
            return ".".join(["pathlib.Path()", *reversed(parts)])
        return ""

    def text(self, node: ast.expr, depth: int = 0) -> Word:
        """The text that `node` comes to; unresolved if it is not plain. Raises `TooMuchError`."""
        word = self._text(node, depth)
        self._characters_left -= PIECE_COST + len(word.text)
        if self._characters_left < 0:
            raise TooMuchError
        return word

    def _text(self, node: ast.expr, depth: int) -> Word:
        match node:
            case ast.Constant(value=str() | int() | bytes() as value):
                return Word(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))
            case ast.Name(id=name) if name in self.values and depth < 8:
                return self.text(self.values[name], depth + 1)
            case ast.BinOp(op=ast.Add(), left=left, right=right) if depth < 50:
                return _joined("", (self.text(left, depth + 1), self.text(right, depth + 1)))
            case ast.JoinedStr(values=values) if depth < 50:
                return _joined("", tuple(self.text(value, depth + 1) for value in values))
            case ast.FormattedValue(value=value) if depth < 50:
                return self.text(value, depth + 1)
            case ast.Call(func=function, args=arguments) if depth < 50:
                return self._text_of_call(self.dotted(function), arguments, depth)
            case ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value="HOME")):
                return Word("~")
            case _:
                return Word("$python", is_resolved=False)

    def _text_of_call(self, name: str, arguments: list[ast.expr], depth: int) -> Word:
        texts = tuple(self.text(argument, depth + 1) for argument in arguments)
        match name, texts:
            case "os.path.expanduser" | "pathlib.Path" | "Path" | "str" | "os.path.abspath", (text,):
                return text
            case (("pathlib.Path.home" | "Path.home"), ()):
                return Word("~")
            case "os.path.join", (_, *_):
                return _joined("/", texts)
            case (("base64.b64decode" | "b64decode"), (Word(text=encoded, is_resolved=True),)):
                return _decoded(encoded)
            case _:
                return Word("$python", is_resolved=False)


def _decoded(encoded: str) -> Word:
    try:
        return Word(base64.b64decode(encoded).decode())
    except (binascii.Error, ValueError):
        return Word("$python", is_resolved=False)


def _joined(separator: str, words: tuple[Word, ...]) -> Word:
    return Word(separator.join(word.text for word in words), all(word.is_resolved for word in words))


def _runs_of_call(call: ast.Call, names: _Names, depth: int) -> Iterator[Runs]:
    name = names.dotted(call.func)
    arguments = call.args or [keyword.value for keyword in call.keywords if keyword.arg in ("args", "path")]
    if name == "pathlib.Path().write_text" and isinstance(call.func, ast.Attribute):
        yield (Word("tee"), names.text(call.func.value))
    elif not arguments:
        return
    elif name in ("exec", "eval") and depth < 8:
        yield from runs_of_python(names.text(arguments[0]).text, depth + 1) or ()
    elif name == "open" and len(call.args) > 1 and set(names.text(call.args[1]).text) & set("wax+"):
        yield (Word("tee"), names.text(arguments[0]))
    elif name == "os.kill" and len(arguments) > 1:
        yield (Word("kill"), Word("-9"), names.text(arguments[0]))
    elif name in AS_COMMANDS:
        yield (*map(Word, AS_COMMANDS[name]), *(names.text(argument) for argument in arguments[:2]))
    elif name in SHELL_CALLS:
        yield names.text(arguments[0]).text
    elif name in PROCESS_CALLS or name.startswith(("os.exec", "os.spawn")):
        yield from _process(name, arguments, names)


def _process(name: str, arguments: list[ast.expr], names: _Names) -> Iterator[Runs]:
    """`subprocess.run` with a list or a text, `os.execvp(file, [name, ...])`, `os.execlp(file, name, ...)`."""
    first = arguments[0]
    if isinstance(first, ast.Name):
        first = names.values.get(first.id, first)
    if isinstance(first, ast.List | ast.Tuple):
        yield tuple(names.text(item) for item in first.elts)
    elif not name.startswith("os."):
        yield names.text(first).text
    elif len(arguments) > 1:
        rest = arguments[1:] if name.startswith("os.exec") else arguments[2:]
        items = rest[0].elts if rest and isinstance(rest[0], ast.List | ast.Tuple) else rest
        program = first if name.startswith("os.exec") else arguments[1]
        yield (names.text(program), *(names.text(item) for item in items[1:]))
