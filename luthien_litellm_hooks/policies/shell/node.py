"""Effects of JavaScript in node, deno and bun: its commands, deletions, writes and requests, as shell commands."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice, product
from types import MappingProxyType

from luthien_litellm_hooks.policies.shell.javascript import Program
from luthien_litellm_hooks.policies.shell.js_names import Call
from luthien_litellm_hooks.policies.shell.model import UNKNOWN, Runs, Word
from luthien_litellm_hooks.policies.shell.values import (
    MAX_ALTERNATIVES,
    Array,
    Literal,
    Name,
    Object,
    Value,
    Values,
    each_of,
    word_of,
)

MAX_EVAL_DEPTH = 3

PREFIX = re.compile(r"^(?:globalThis|global|window|self)\.|(?<=^fs)\.promises(?=\.)")
SUFFIX = re.compile(r"Sync$")
AS_COMMANDS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("fs.unlink", "Deno.unlink"), ("rm",)),
        **dict.fromkeys(
            ("rimraf", "rimraf.sync", "rimraf.rimraf", "del", "del.sync", "fs.remove", "fs.emptyDir"), ("rm", "-rf")
        ),
        **dict.fromkeys(
            frozenset({"fs.writeFile", "fs.appendFile", "fs.createWriteStream", "fs.outputFile", "fs.outputJson"})
            | {"fs.outputJSON", "fs.writeJson", "fs.writeJSON", "fs.ensureFile", "fs.createFile", "write-file-atomic"}
            | {"Deno.writeTextFile", "Deno.writeFile", "Deno.create", "Bun.write"},
            ("tee",),
        ),
        **dict.fromkeys(("fs.mkdir", "fs.mkdirp", "fs.ensureDir", "Deno.mkdir"), ("mkdir", "-p")),
        **dict.fromkeys(("fs.truncate", "Deno.truncate"), ("truncate", "-s", "0")),
        "process.kill": ("kill", "-9"),
        "Deno.kill": ("kill", "-9"),
        "shell.touch": ("touch",),
    }
)
"""Functions of one path with the same effect as a command."""

WITH_TWO = MappingProxyType(
    {
        **dict.fromkeys(("fs.copyFile", "fs.copy", "fs.cp", "Deno.copyFile"), ("cp", "-r")),
        **dict.fromkeys(("fs.rename", "fs.move", "Deno.rename"), ("mv",)),
        **dict.fromkeys(("fs.symlink", "Deno.symlink", "fs.link", "Deno.link"), ("ln", "-s")),
    }
)
"""Functions of two paths with the same effect as a command."""

RIGHTS = MappingProxyType({"fs.chmod": "chmod", "fs.chown": "chown", "fs.lchown": "chown", "Deno.chmod": "chmod"})
REMOVALS = MappingProxyType({"fs.rm": "rm", "fs.rmdir": "rmdir", "Deno.remove": "rm", "fs.rmDir": "rm"})
OPENERS = frozenset({"fs.open", "Deno.open"})
SHELLS = frozenset({"child_process.exec", "shell.exec", "execa.execaCommand", "execa.command", "execaCommand", "exec"})
PROCESSES = frozenset(
    {"child_process.spawn", "child_process.execFile", "execa", "execa.execa", "Bun.spawn", "Deno.Command", "Deno.run"}
    | {"spawn", "execFile", "pty.spawn", "node-pty.spawn"}
)
TEMPLATES = frozenset({"$", "Bun.$", "bun.$", "zx.$", "execa.$", "dax.$", "shell"})
SHELLJS = re.compile(r"shell\.(rm|mv|cp|mkdir|chmod|ln)")
REQUESTS = re.compile(
    r"(?:undici\.|node-fetch\.?|cross-fetch\.?)?fetch|(?:node|cross)-fetch|(?:undici|https?2?)\.(?:get|request|stream|connect)"
    r"|(?:axios|got|ky|superagent|needle|request|phin|bent)(?:\.(?:get|post|put|patch|delete|del|head|options|request))?"
    r"|(?:ws\.)?WebSocket|ws|EventSource|navigator\.sendBeacon|Bun\.connect|Deno\.connect(?:Tls)?"
)
SOCKETS = frozenset(
    {"net.connect", "net.createConnection", "net.Socket().connect", "tls.connect", "dgram.createSocket().send"}
)
METHOD = re.compile(r"\.(post|put|patch|delete|del)$")
EVALUATORS = frozenset({"eval", "Function", "vm.runInThisContext", "vm.runInNewContext", "vm.Script", "setTimeout"})


def runs_of_program(program: Program, depth: int = 0) -> Iterator[Runs]:
    """Yields the commands that a program runs by itself. Raises `TooMuchError`."""
    for call in program.calls:
        for name in dict.fromkeys(value.path for value in program.values(call.function) if isinstance(value, Name)):
            yield from _runs_of_call(program, name, call, depth)


def _runs_of_call(program: Program, name: str, call: Call, depth: int) -> Iterator[Runs]:
    arguments = call.arguments
    if arguments is not None and arguments.type == "template_string":
        if PREFIX.sub("", name) in TEMPLATES:
            yield from program.texts(arguments)
        return
    given = (
        [program.values(child) for child in arguments.named_children if child.type != "comment"] if arguments else []
    )
    if name.endswith(".call"):
        name, given = name.removesuffix(".call"), given[1:]
    elif name.endswith(".apply"):
        name, given = name.removesuffix(".apply"), _items(given[1]) if len(given) > 1 else []
    name = SUFFIX.sub("", PREFIX.sub("", PREFIX.sub("", name)))
    if given:
        yield from _effects(name, given, depth)


def _effects(name: str, given: Sequence[Values], depth: int) -> Iterator[Runs]:
    first = _words(given[0])
    if name in EVALUATORS and depth < MAX_EVAL_DEPTH:
        for word in first:
            inner = Program.read(word.text) if word.is_resolved and word.text else None
            if inner is not None:
                yield from runs_of_program(inner, depth + 1)
    elif name in AS_COMMANDS:
        yield from each_of(AS_COMMANDS[name], [first])
    elif name in REMOVALS:
        is_recursive = len(given) > 1 and _may_be_set(given[1], "recursive")
        yield from each_of(("rm", "-rf") if is_recursive else (REMOVALS[name],), [first])
    elif name in OPENERS:
        if len(given) > 1 and _writes(given[1]):
            yield from each_of(("tee",), [first])
    elif name in WITH_TWO:
        yield from each_of(WITH_TWO[name], [first, *map(_words, given[1:2])])
    elif name in RIGHTS:
        yield from each_of((RIGHTS[name], "0"), [first])
    elif SHELLJS.fullmatch(name):
        words = [_words(each) for each in given]
        yield from each_of((name.removeprefix("shell."),), [tuple(_flat(each)) for each in words])
    elif name in SHELLS:
        yield from first
    elif name in PROCESSES:
        yield from _process(given)
    elif name in SOCKETS:
        yield from each_of(("nc",), [_host_of(given)])
    elif REQUESTS.fullmatch(name):
        yield from _request(name, given)


def _words(values: Values) -> tuple[Word, ...]:
    return tuple(dict.fromkeys(map(word_of, values)))


def _flat(words: Sequence[Word]) -> Iterator[Word]:
    for word in words:
        yield from (Word(part, word.is_resolved) for part in word.text.split(","))


def _members(values: Values, *keys: str) -> tuple[Value, ...]:
    """Returns the values of a setting, under any of its names."""
    return tuple(found for value in values if isinstance(value, Object) for key in keys for found in value.get(key))


def _may_be_set(values: Values, key: str) -> bool:
    """Tells if a setting is true, or unknown."""
    is_unknown = any(not isinstance(value, Object | Name) and word_of(value) == UNKNOWN for value in values)
    return is_unknown or any(value != Literal("false") for value in _members(values, key))


def _writes(values: Values) -> bool:
    """Tells if a file is opened for writing, by its flags or by deno's settings."""
    flags = any(set(word.text) & set("wax+") and len(word.text) < 4 for word in _words(values))
    return flags or any(_may_be_set(values, key) for key in ("write", "append", "create", "truncate"))


def _items(values: Values) -> list[Values]:
    return next((list(value.items) for value in values if isinstance(value, Array)), list[Values]())


def _process(given: Sequence[Values]) -> Iterator[Runs]:
    """Yields the command of `spawn(file, [words], settings)`, or of a list or settings with the list."""
    listed = _items(given[0]) or _items(_members(given[0], "cmd"))
    rest = given[1] if len(given) > 1 else ()
    if not listed:
        listed = [given[0], *(_items(rest) or _items(_members(rest, "args")))]
    parts = [_words(item) or (UNKNOWN,) for item in listed]
    if any(_may_be_set(values, "shell") for values in given[1:] if any(isinstance(value, Object) for value in values)):
        for words in islice(product(*parts), MAX_ALTERNATIVES):
            yield Word(" ".join(word.text for word in words), all(word.is_resolved for word in words))
    else:
        yield from each_of((), parts)


def _host_of(given: Sequence[Values]) -> tuple[Word, ...]:
    """Returns the host of a socket: of its settings, or after the port; this machine without one."""
    named = _words(_members(given[0], "host", "hostname"))
    if named:
        return named
    hosts = [word for values in given[1:2] for word in _words(values) if not re.fullmatch(r"\d+", word.text)]
    is_port = any(isinstance(value, Literal | Object) for value in given[0])
    return tuple(hosts) if hosts and is_port else (Word("localhost"),) if is_port else (UNKNOWN,)


def _request(name: str, given: Sequence[Values]) -> Iterator[Runs]:
    """Yields `curl` for a request. A path alone stays on the page's own host."""
    settings = [values for values in given if any(isinstance(value, Object) for value in values)]
    named = [
        value for values in settings[:2] for value in _members(values, "url", "uri", "baseURL", "host", "hostname")
    ]
    urls = [word for word in _words(given[0]) if word != UNKNOWN or not named]
    verb = METHOD.search(name)
    methods = (
        [Word(verb[1].upper())]
        if verb
        else list(_words(tuple(v for each in settings for v in _members(each, "method"))))
    )
    options = (Word("-X"), methods[0]) if methods else ()
    for url in (*urls, *map(word_of, named)):
        if not (url.is_resolved and re.match(r"/(?!/)|[.?#]|(?:data|blob|file):", url.text)):
            yield (Word("curl"), *options, url)
