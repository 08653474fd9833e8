"""Effects of Python: its commands, deletions, writes and requests, as shell commands."""

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import chain
from types import MappingProxyType

from luthien_litellm_hooks.policies.shell.model import UNKNOWN, Runs, Word
from luthien_litellm_hooks.policies.shell.python_values import MAX_SOURCE, Module
from luthien_litellm_hooks.policies.shell.values import Array, Name, Values, each_of, word_of

MAX_EVAL_DEPTH = 8

AS_COMMANDS = MappingProxyType(
    {
        **dict.fromkeys(("shutil.rmtree", "send2trash.send2trash"), ("rm", "-rf")),
        **dict.fromkeys(("os.remove", "os.unlink"), ("rm",)),
        **dict.fromkeys(("os.rmdir", "os.removedirs"), ("rmdir", "-p")),
        **dict.fromkeys(("os.truncate",), ("truncate", "-s", "0")),
        **dict.fromkeys(("os.chmod", "os.lchmod"), ("chmod", "0")),
        **dict.fromkeys(("os.chown", "os.lchown", "shutil.chown"), ("chown", "0")),
        **dict.fromkeys(("os.mkdir", "os.makedirs"), ("mkdir", "-p")),
        **dict.fromkeys(("os.mkfifo", "os.mknod", "os.utime"), ("touch",)),
        **dict.fromkeys(("dotenv.set_key", "dotenv.unset_key", "logging.FileHandler", "numpy.save"), ("tee",)),
    }
)
"""Functions of one path with the same effect as a command."""
WITH_TWO = MappingProxyType(
    {
        **dict.fromkeys(("shutil.move", "os.rename", "os.renames", "os.replace"), ("mv",)),
        **dict.fromkeys(("shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree"), ("cp", "-r")),
        **dict.fromkeys(("os.symlink", "os.link"), ("ln", "-s")),
        "shutil.unpack_archive": ("unzip", "-d"),
    }
)
"""Functions of two paths with the same effect as a command."""
OF_PATH = MappingProxyType(
    {
        **dict.fromkeys(("unlink",), ("rm",)),
        **dict.fromkeys(("rmtree", "remove_p", "rmtree_p"), ("rm", "-rf")),
        **dict.fromkeys(("write_text", "write_bytes"), ("tee",)),
        **dict.fromkeys(("rmdir",), ("rmdir",)),
        **dict.fromkeys(("touch",), ("touch",)),
        **dict.fromkeys(("mkdir",), ("mkdir", "-p")),
        **dict.fromkeys(("chmod", "lchmod"), ("chmod", "0")),
    }
)
"""Methods of a path with the same effect as a command."""
WITH_TARGET = MappingProxyType({"rename": "mv", "replace": "mv", "symlink_to": "ln", "hardlink_to": "ln", "move": "mv"})
SAVES = frozenset({"to_csv", "to_json", "to_parquet", "to_pickle", "to_excel", "savefig", "to_html", "to_markdown"})
"""Methods of tables and plots that write their first argument."""

OPENERS = frozenset(
    {
        "open",
        "io.open",
        "codecs.open",
        "builtins.open",
        "gzip.open",
        "bz2.open",
        "lzma.open",
        "os.fdopen",
        "aiofiles.open",
    }
    | {"zipfile.ZipFile", "tarfile.open", "tarfile.TarFile", "io.FileIO", "tempfile.NamedTemporaryFile"}
    | {"shelve.open"}
)
SHELLS = re.compile(
    r"os\.(?:system|popen)|subprocess\.(?:getoutput|getstatusoutput)|asyncio\.create_subprocess_shell|commands\.get(?:status)?output"
    r"|popen2\.popen\d|pexpect\.(?:run|spawn|spawnu)|invoke\.run|(?:IPython\.)?get_ipython\(\)\.(?:system|getoutput|getoutputs)"
    r"|ctypes\.(?:CDLL|PyDLL|cdll\.LoadLibrary)\(\)\.system|ctypes\.cdll\[?\w*\]?\.system|posix\.system|fabric\.Connection\(\)\.(?:run|local)"
)
PROCESSES = re.compile(
    r"subprocess\.(?:run|call|check_call|check_output|Popen)|asyncio\.create_subprocess_exec|pty\.spawn|_posixsubprocess\.fork_exec"
    r"|(?:os|posix)\.(?:exec|spawn|posix_spawn)\w*"
)
EVALUATORS = re.compile(
    r"(?:builtins\.)?(?:exec|eval)|runpy\.run_string|code\.interact|(?:IPython\.)?get_ipython\(\)\.(?:run_cell|ex|ev)|timeit\.timeit"
)
DECODERS = re.compile(
    r"(?:base64\.\w+decode|zlib\.decompress|codecs\.decode|marshal\.loads|binascii\.\w+|bz2\.decompress|lzma\.decompress)"
)
REQUESTS = re.compile(
    r"(?:requests|httpx|niquests|curl_cffi\.requests|aiohttp|urllib3|requests_html|httplib2)"
    r"(?:\.\w*(?:Session|session|Client|PoolManager|Http)\(\))?\.(get|post|put|patch|delete|head|options|request|stream|urlopen|ws_connect)"
    r"|urllib2?\.(?:request\.)?(?:urlopen|urlretrieve)|urllib\.request\.(?:build_opener|URLopener|FancyURLopener)\(\)\.(?:open|retrieve)"
    r"|websockets(?:\.\w+)*\.connect|websocket\.(?:create_connection|WebSocketApp|WebSocket\(\)\.connect)|wget\.download"
    r"|xmlrpc\.client\.ServerProxy|git\.Repo\.clone_from|pandas\.read_\w+"
)
CLIENTS = re.compile(r"(?:requests|httpx|aiohttp|urllib3|httplib2)\.\w*(?:Session|session|Client)")
HOSTS = re.compile(
    r"(?:http\.client|httplib)\.HTTPS?Connection|ftplib\.FTP(?:_TLS)?|smtplib\.SMTP(?:_SSL)?|telnetlib\.Telnet|poplib\.POP3(?:_SSL)?"
    r"|imaplib\.IMAP4(?:_SSL)?|(?:ftplib|smtplib)\.\w+\(\)\.connect|paramiko\.(?:Transport|SSHClient\(\)\.connect)|asyncio\.open_connection"
    r"|fabric\.Connection|pysftp\.Connection"
)
ADDRESSES = frozenset({"connect", "connect_ex", "sendto"})
"""Methods of a socket with an address, a pair of a host and a port."""
OWN_HOST = re.compile(r"/(?!/)|[.?#]|(?:data|file):")
IS_URL = re.compile(r"(?:https?|ftp|wss?)://")
SETS = frozenset("wax+")
WRITING_FLAG = re.compile(r"O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND)")


def runs_of_python(source: str, depth: int = 0) -> Iterator[Runs] | None:
    """Yields the commands `source` runs; None if it is not Python. An empty item replaces unread code."""
    if len(source) > MAX_SOURCE:
        return iter([()])
    tree = parsed_python(source)
    return None if tree is None else _runs(Module(tree), depth)


def parsed_python(source: str) -> ast.Module | None:
    """Parses Python, or a cell of IPython; None for anything else."""
    tree = _parsed(source.lstrip("\ufeff"))
    if tree is None and ("!" in source or "%" in source):
        return _parsed(_without_magics(source))
    return tree


def _parsed(source: str) -> ast.Module | None:
    try:
        return syntax_tree(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def syntax_tree(source: str) -> ast.Module:
    """Parses Python, once more if a finalizer parsed meanwhile: CPython before 3.11.8 fails then (gh-106905)."""
    try:
        return ast.parse(source)
    except SystemError:
        return ast.parse(source)


MAGIC = re.compile(
    r"^(?P<start>[ \t]*+(?:[^\W\d][\w, \[\]]*+=[ \t]*+)?+)"
    r"(?:(?P<command>!{1,2}(?!=)|%(?:sx|sc|system)[ \t])|(?P<run>%run[ \t])"
    r"|(?P<code>%(?:time|timeit|prun)[ \t])|%[a-z])"
    r"(?P<rest>(?:[^\n\\]|\\[^\n]|\\\n)*+)",
    re.MULTILINE,
)
CELL_MAGIC = re.compile(r"\s*%%(\w+|!)[ \t]*([^\n]*)\n?")
CELL_SHELLS = frozenset({"bash", "sh", "script", "sx", "system", "!", "zsh"})
CELL_LANGUAGES = MappingProxyType(
    {"perl": "perl", "ruby": "ruby", "node": "node", "python3": "python3", "python": "python3"}
)
CELL_TEXTS = frozenset({"html", "HTML", "markdown", "latex", "svg", "SVG", "sql", "javascript", "js", "cython"})
INTERPOLATION = re.compile(r"\{([A-Za-z_]\w*)\}")


def _without_magics(source: str) -> str:
    """Returns IPython's `!command`, `%magic` and `%%magic` as the calls that it makes of them."""
    cell = CELL_MAGIC.match(source)
    if cell is None:
        return MAGIC.sub(_call_of_magic, source)
    name, words, body = cell[1], cell[2], source[cell.end() :]
    if name in CELL_SHELLS:
        return f"get_ipython().system({body if name != 'script' else _fed(words, body)!r})"
    if name in ("writefile", "file"):
        return f"open({(words.split() or [''])[-1]!r}, 'w')"
    if name in CELL_LANGUAGES:
        return f"get_ipython().system({_fed(CELL_LANGUAGES[name], body)!r})"
    return "" if name in CELL_TEXTS else MAGIC.sub(_call_of_magic, body)


def _fed(command: str, text: str) -> str:
    return f"{command} <<'LUTHIEN_CELL'\n{text}\nLUTHIEN_CELL"


def _call_of_magic(found: re.Match[str]) -> str:
    rest = found["rest"].replace("\\\n", " ")
    if found["code"]:
        return f"{found['start']}{rest}"
    if not found["command"] and not found["run"]:
        return f"{found['start']}None"
    parts = INTERPOLATION.split(f"python3 {rest}" if found["run"] else rest)
    texts = [part if place % 2 else repr(part) for place, part in enumerate(parts)]
    return f"{found['start']}get_ipython().system({' + '.join(texts)})"


def _runs(module: Module, depth: int) -> Iterator[Runs]:
    for call in module.calls:
        values = module.values(call.func)
        given = _Given(module, call)
        names = [value.path for value in values if isinstance(value, Name)]
        for name in dict.fromkeys(names):
            yield from _effects(name, given, depth)
            if not _is_effect(name):
                yield from _handed_on(given, depth)
        if isinstance(call.func, ast.Attribute):
            yield from _effects_of_method(module, call.func, given)


class _Given:
    """Arguments of a call. Texts of a missing one are empty."""

    def __init__(self, module: Module, call: ast.Call) -> None:
        self.module = module
        self.nodes = [*call.args]
        self.named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
        self.is_open = any(keyword.arg is None for keyword in call.keywords)

    def values(self, place: int, *names: str) -> Values:
        """Returns the values of an argument by its place, or by one of its names."""
        node = next((self.named[name] for name in names if name in self.named), None)
        if node is None and place < len(self.nodes):
            node = self.nodes[place]
        if isinstance(node, ast.Starred):
            found = self.module.values(node.value)
            return tuple(chain(*(value.items[0] for value in found if isinstance(value, Array) and value.items))) or (
                UNKNOWN,
            )
        return () if node is None else self.module.values(node)

    def texts(self, place: int, *names: str) -> tuple[Word, ...]:
        return _texts(self.values(place, *names))

    def after(self, place: int) -> "_Given":
        """Returns the arguments that a function at `place` gets from the function it is given to."""
        handed = _Given.__new__(_Given)
        handed.module, handed.is_open = self.module, self.is_open
        handed.nodes = self.nodes[place + 1 :]
        handed.named = {name: node for name, node in self.named.items() if name not in ("target", "args", "kwargs")}
        args = self.named.get("args")
        if isinstance(args, ast.Tuple | ast.List):
            handed.nodes += args.elts
        return handed


def _texts(values: Values) -> tuple[Word, ...]:
    """Returns values as texts, and a list as its items: `map` gives a function each of them."""
    parts = (tuple(chain(*value.items)) if isinstance(value, Array) else (value,) for value in values)
    return tuple(dict.fromkeys(word_of(part) for part in chain(*parts)))


def _is_effect(name: str) -> bool:
    tables = (SHELLS, PROCESSES, EVALUATORS, REQUESTS)
    return name in AS_COMMANDS or name in WITH_TWO or any(table.fullmatch(name) for table in tables)


def _handed_on(given: _Given, depth: int) -> Iterator[Runs]:
    """Yields the effects of a function given to another one, with the arguments after it, as `map(f, …)`."""
    nodes = [(place, node) for place, node in enumerate(given.nodes) if isinstance(node, ast.Name | ast.Attribute)]
    nodes += [(len(given.nodes), given.named["target"])] if "target" in given.named else []
    for place, node in nodes:
        for value in given.module.values(node):
            if isinstance(value, Name) and _is_effect(value.path):
                yield from _effects(value.path, given.after(place), depth)


def _effects(name: str, given: _Given, depth: int) -> Iterator[Runs]:
    if name in OPENERS:
        yield from _opened(given)
    elif name == "os.open":
        flags = [part for node in given.nodes[1:] for part in ast.walk(node)]
        if any(isinstance(part, ast.Attribute) and WRITING_FLAG.match(part.attr) for part in flags):
            yield from each_of(("tee",), [given.texts(0, "path")])
    elif name in AS_COMMANDS:
        yield from each_of(AS_COMMANDS[name], [given.texts(0, "path", "filename", "file", "dotenv_path")])
    elif name in WITH_TWO:
        first, second = given.texts(0, "src", "filename"), given.texts(1, "dst", "extract_dir")
        parts = [second, first] if name == "shutil.unpack_archive" else [first, second]
        yield from each_of(WITH_TWO[name], [part for part in parts if part])
    elif name in ("os.kill", "os.killpg"):
        yield from each_of(("kill", "-9"), [given.texts(0, "pid")])
    elif name in ("fileinput.input", "fileinput.FileInput"):
        if "inplace" in given.named:
            yield from each_of(("tee",), [given.texts(0, "files")])
    elif SHELLS.fullmatch(name):
        yield from _scripts(given, given.texts(0, "command", "cmd", "args"))
    elif PROCESSES.fullmatch(name):
        yield from _process(name, given)
    elif name == "get_ipython().run_cell_magic":
        yield from given.texts(2, "cell")
    elif name.startswith("sh.") and name.count(".") == 1:
        yield from each_of((name.removeprefix("sh."),), [given.texts(place) for place in range(len(given.nodes))])
    elif EVALUATORS.fullmatch(name) and depth < MAX_EVAL_DEPTH:
        yield from _evaluated(given, depth)
    else:
        yield from _request(name, given)


def _opened(given: _Given) -> Iterator[Runs]:
    modes = given.texts(1, "mode", "flag")
    if any(len(mode.text) < 6 and set(mode.text) & SETS for mode in modes):
        yield from each_of(("tee",), [given.texts(0, "file", "name", "filename", "path")])


def _scripts(given: _Given, texts: Sequence[Word]) -> Iterator[Runs]:
    """Yields scripts; that of a text that a request gets is a download."""
    yield from texts
    if UNKNOWN in texts and given.nodes:
        url = _fetched(given.module, given.nodes[0])
        if url is not None:
            yield Word(f"curl {url} | sh")


def _fetched(module: Module, node: ast.expr) -> str | None:
    """Returns the URL, quoted, if a request makes the text of `node`."""
    for name, call in _calls_below(module, node):
        if REQUESTS.fullmatch(name):
            word = next(iter(_Given(module, call).texts(0, "url")), UNKNOWN)
            return shlex.quote(word.text) if word.is_resolved else '"$luthien_url"'
    return None


def _calls_below(module: Module, node: ast.expr) -> Iterator[tuple[str, ast.Call]]:
    waiting: list[ast.AST] = [node]
    seen = 0
    while waiting and seen < 200:
        part = waiting.pop()
        seen += 1
        if isinstance(part, ast.Call):
            yield from ((value.path, part) for value in module.values(part.func) if isinstance(value, Name))
        if isinstance(part, ast.Name):
            waiting += module.sources(part.id)
        waiting += ast.iter_child_nodes(part)


def _evaluated(given: _Given, depth: int) -> Iterator[Runs]:
    texts = given.texts(0, "source", "stmt")
    for word in texts:
        if word.is_resolved:
            yield from runs_of_python(word.text, depth + 1) or ()
    if all(word.is_resolved for word in texts) or not given.nodes:
        return
    url = _fetched(given.module, given.nodes[0])
    if url is not None:
        yield Word(f"curl {url} | python3")
    elif any(DECODERS.fullmatch(name) for name, _ in _calls_below(given.module, given.nodes[0])):
        yield Word("base64 -d | python3")


def _process(name: str, given: _Given) -> Iterator[Runs]:
    """Yields the command of `subprocess.run` with a list or a text, `os.execvp(file, [name, ...])`, `os.execlp(file,
    name, ...)`."""
    if name.startswith(("os.", "posix.")):
        yield from _program(name, given)
        return
    first = given.values(0, "args", "argv")
    lists = [value for value in first if isinstance(value, Array)]
    is_shell = "shell" in given.named and given.texts(9, "shell") != (Word("false"),)
    for value in lists:
        parts = [_texts(item) for item in value.items] or [(UNKNOWN,)]
        yield from parts[0] if is_shell else each_of((), parts)
    others = [word_of(value) for value in first if not isinstance(value, Array)]
    if name == "asyncio.create_subprocess_exec":
        yield from each_of((), [given.texts(place) for place in range(len(given.nodes))])
    else:
        yield from _scripts(given, others)


def _program(name: str, given: _Given) -> Iterator[Runs]:
    start = 1 if "spawn" in name and "posix" not in name else 0
    lists = [value for value in given.values(start + 1, "args", "argv") if isinstance(value, Array)]
    items = (
        [_texts(item) for item in lists[0].items]
        if lists
        else [given.texts(place) for place in range(start + 1, len(given.nodes))]
    )
    yield from each_of((), [given.texts(start, "file", "path"), *items[1:]])


def _request(name: str, given: _Given) -> Iterator[Runs]:
    found = REQUESTS.fullmatch(name)
    if found is not None:
        method = (found[1] or "").lower()
        is_open = method in ("request", "stream") and not (name.startswith("urllib3") and len(given.nodes) < 2)
        methods = given.texts(0, "method") if is_open or "method" in given.named else (Word(method.upper()),)
        if "data" in given.named or "json" in given.named or (name.endswith(".urlopen") and len(given.nodes) > 1):
            methods = (Word("POST"),) if method in ("", "urlopen") else methods
        is_plain = all(word.text in ("", "GET", "URLOPEN", "WS_CONNECT") for word in methods)
        options = ("curl",) if is_plain else ("curl", "-X", methods[0].text.upper())
        urls = given.texts(1 if is_open else 0, "url", "uri", "filepath_or_buffer")
        if name.startswith("pandas."):
            urls = tuple(word for word in urls if IS_URL.match(word.text))
        yield from each_of(options, [[word for word in urls if not (word.is_resolved and OWN_HOST.match(word.text))]])
    elif CLIENTS.fullmatch(name) and "base_url" in given.named:
        yield from each_of(("curl",), [given.texts(9, "base_url")])
    elif HOSTS.fullmatch(name) and (given.nodes or "host" in given.named):
        yield from each_of(("nc",), [given.texts(0, "host", "hostname")])
    elif name == "socket.create_connection":
        yield from _address(given.values(0, "address"))


def _address(values: Values) -> Iterator[Runs]:
    for value in values:
        hosts = _texts(value.items[0]) if isinstance(value, Array) and value.items else (UNKNOWN,)
        yield from each_of(("nc",), [hosts])


def _effects_of_method(module: Module, function: ast.Attribute, given: _Given) -> Iterator[Runs]:
    """Yields the effects of the methods of paths, sockets and tables."""
    method = function.attr
    owners = module.values(function.value)
    is_socket = Name("socket.socket()") in owners
    if method in ADDRESSES and (is_socket or UNKNOWN in owners):
        values = given.values(1 if method == "sendto" and len(given.nodes) > 1 else 0, "address")
        pairs = tuple(value for value in values if isinstance(value, Array) and len(value.items) == 2)
        yield from _address(pairs)
        if is_socket and not pairs:
            yield from each_of(("nc",), [[word for word in map(word_of, values) if not word.is_resolved]])
    elif method in SAVES:
        yield from each_of(("tee",), [given.texts(0, "path", "path_or_buf", "fname", "buf")])
    elif method == "extractall":
        yield from each_of(("unzip", "-d"), [given.texts(0, "path")])
    paths = [word for word in map(word_of, owners) if word != UNKNOWN]
    if method in OF_PATH:
        yield from each_of(OF_PATH[method], [paths])
    elif method == "open" and any(set(mode.text) & SETS for mode in given.texts(0, "mode")):
        yield from each_of(("tee",), [paths])
    elif method in WITH_TARGET and len(given.nodes) == 1:
        parts = [given.texts(0), paths] if WITH_TARGET[method] == "ln" else [paths, given.texts(0)]
        yield from each_of((WITH_TARGET[method], *(("-s",) if WITH_TARGET[method] == "ln" else ())), parts)
