"""Code in perl, ruby and php: shell commands, deletions, writes and requests, where literals show them."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from luthien_litellm_hooks.policies.shell.model import UNKNOWN, Runs, Word

CALL = re.compile(
    r"(?:system|execSync|exec|spawnSync|spawn|popen\d?|capture\d\w*|shell_exec|passthru|do shell script|qx|`)"
    r"\s*+[\[(]*+\s*+"
)
CLOSING = MappingProxyType({'"': '"', "'": "'", "{": "}"})
NEXT_WORD = re.compile(r"\s*+,[\s\[]*+(?=[\"'])")
ENCLOSED = re.compile(r"(?:\bqx|%x)\s*+(?:\(([^()\n]*)\)|\{([^{}\n]*)\}|\[([^\[\]\n]*)\]|([/|!])((?:(?!\4)[^\n])*)\4)")
INTERPOLATION = re.compile(r"#\{[^{}]*\}")


def shell_calls(code: str) -> Iterator[Runs]:
    """Yields the literals passed to `system` and similar calls, or put between backticks; several are one command."""
    marks = _Marks(code)
    end = 0
    for call in CALL.finditer(code):
        if call.start() >= end and (literal := _literal(code, call.end(), marks)) is not None:
            end = call.end() + len(literal) + 1
            words = [_script(literal)]
            while code[call.end() - 1 : call.end()] != "`" and (following := NEXT_WORD.match(code, end + 1)):
                literal = _literal(code, following.end(), marks)
                if literal is None:
                    break
                words.append(_script(literal))
                end = following.end() + len(literal) + 1
            is_script = len(words) == 1 or any(character.isspace() for character in words[0].text)
            yield words[0] if is_script else tuple(words)
    for found in ENCLOSED.finditer(code):
        yield _script(next(group for group in found.group(1, 2, 3, 5) if group is not None))


def _script(literal: str) -> Word:
    """Returns a literal as a script, with an unknown value for each `#{...}`; empty if its quotes do not match."""
    text = literal.replace('\\"', '"').replace("\\'", "'")
    if text.count('"') % 2 or text.count("'") % 2:
        return Word("")
    return Word(INTERPOLATION.sub(lambda found: "~" if _is_home(found[0]) else UNKNOWN.text, text))


def _literal(code: str, start: int, marks: "_Marks") -> str | None:
    closing = CLOSING.get(code[start : start + 1])
    if closing is not None:
        end = marks.next(closing, start + 1)
        while code[end - 1] == "\\" and end < len(code):
            end = marks.next(closing, end + 1)
        return code[start + 1 : end] if end < len(code) else None
    end = marks.next("`", start)
    is_plain = all(marks.next(mark, start) >= end for mark in "\"'({")
    return code[start:end] if start < end < len(code) and is_plain else None


class _Marks:
    """Search for the next place of several marks. Calls from left to right read the code once for each mark."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._places: dict[str, int] = {}

    def next(self, mark: str, start: int) -> int:
        """Returns the first place of `mark` at or after `start`; the length of the code if there is none."""
        place = self._places.get(mark, -1)
        if place < start:
            found = self._code.find(mark, start)
            self._places[mark] = place = len(self._code) if found < 0 else found
        return place


HOME = r"(?:\$?ENV(?:\[['\"]HOME['\"]\]|\{['\"]?HOME['\"]?\})|getenv\(['\"]HOME['\"]\)|Dir\.home)"
QUOTED = re.compile(r"(['\"])((?:(?!\1)[^\\\n]){0,500})\1|\bqq?\{([^{}\n]{0,500})\}")
GIVEN = re.compile(r"(?<![\w$])(\$?\w++)\s*+=\s*+(['\"])((?:(?!\2)[^\\\n]){0,500})\2")
ARGUMENT = re.compile(rf"{QUOTED.pattern}|({HOME})|(-?\$?[\w:]+)|[^,;(){{}}\n]")
ENDS = frozenset({"or", "and", "if", "unless", "while", "until", "for", "foreach", "do", "die"})
TRANSPARENT = frozenset({"glob", "Dir", "Pathname", "URI", "new", "expand_path", "File"})
JOINED_PATH = re.compile(r"File\.join\(([^()\n]*)\)")
FUNCTION = re.compile(
    r"(?<![\w$@%>:.])((?:(?:[A-Z]\w*+(?:::|\.))*|\w++->)(?:rmtree|remove_tree|rm_rf?|remove_entry(?:_secure)?|remove_dir|unlink|delete"
    r"|rmdir|rimraf|rm_f|write|binwrite|file_put_contents|write_file|open|new|fopen|sysopen|rename|mv|move|copy|copy_file|cp"
    r"|cp_r|symlink|link|ln_sf?|chmod(?:_R)?|chown(?:_R)?|touch|mkdir|mkdir_p|truncate|kill))\b(?=[!(\s\[])[!(\s\[]*+"
)
TREES = frozenset(
    {"rmtree", "remove_tree", "rm_rf", "rm_r", "remove_entry", "remove_entry_secure", "remove_dir", "rimraf"}
)
LIKE_COMMANDS = MappingProxyType(
    {
        **dict.fromkeys(TREES, ("rm", "-rf")),
        **dict.fromkeys(("unlink", "delete", "rm_f", "rm"), ("rm",)),
        **dict.fromkeys(("rename", "mv", "move"), ("mv",)),
        **dict.fromkeys(("copy", "copy_file", "cp", "cp_r"), ("cp", "-r")),
        **dict.fromkeys(("symlink", "link", "ln_s", "ln_sf"), ("ln", "-s")),
        **dict.fromkeys(("write", "binwrite", "file_put_contents", "write_file"), ("tee",)),
        **dict.fromkeys(("chmod_R", "chown_R"), ("chmod", "-R", "0")),
        **dict.fromkeys(("chmod", "chown"), ("chmod", "0")),
        **dict.fromkeys(("mkdir", "mkdir_p"), ("mkdir", "-p")),
        "rmdir": ("rmdir",),
        "touch": ("touch",),
        "truncate": ("truncate", "-s", "0"),
        "kill": ("kill", "-9"),
    }
)
"""Functions of perl, ruby and php with the same effect as a shell command."""
OPENERS = frozenset({"open", "new", "fopen", "sysopen"})
NEED_OWNER = frozenset({"delete", "write", "new"})
"""Functions that mean files only as those of a module: `File.delete`."""
NETWORK = re.compile(
    r"LWP::|HTTP::|Net::(?:HTTP|FTP|SSH|SMTP)|net/http|open-uri|\bURI\.open|IO::Socket|\binet_aton|\b(?:TCP|UDP)Socket"
    r"|\bSocket\.(?:tcp|new)|\bHTTParty|\bFaraday|\bRestClient|\bExcon\b|\bcurl_(?:init|exec)|\bfsockopen|\bstream_socket_client"
    r"|Mojo::UserAgent|WWW::|\bFurl\b|\bsocket\.http"
)
URL = re.compile(r"\b(?:https?|ftp|wss?)://[^\s'\"<>()]+")
READS_URL = re.compile(r"\b(?:file_get_contents|fopen|readfile|copy|open)\s*+\(?\s*+['\"]((?:https?|ftp)://[^\s'\"]+)")
HOST = re.compile(
    r"(?:Socket\.(?:new|open|tcp)|Peer(?:Addr|Host)\s*+(?:=>|,)|fsockopen|INET->new|inet_aton|HTTP\.start)[\s(]*+['\"]([\w.:-]+)['\"]"
)
ASKS = re.compile(r"\b(?:get\w*|post\w*|put|request|connect|new|start|open|head|mirror|call|tcp)\b")
MAX_ARGUMENTS = 8


def effects_of_code(code: str, options: str) -> Iterator[Runs]:
    """Yields deletions, writes and requests of code in perl, ruby or php, as far as its literals show them.

    `options` are all words of the interpreter: some load modules.
    """
    given = {found[1]: found[3] for found in GIVEN.finditer(code)}
    code = JOINED_PATH.sub(lambda found: _joined_path(found[1], given), code)
    literals = QUOTED.finditer(code)
    literal = next(literals, None)
    for found in FUNCTION.finditer(code):
        while literal is not None and literal.end() <= found.start():
            literal = next(literals, None)
        arguments = _arguments(code, found.end(), given)
        if literal is None or literal.start() > found.start() or UNKNOWN not in arguments:
            yield from _like_command(found[1], arguments)
    if NETWORK.search(options):
        urls = [found[0] for found in URL.finditer(code)]
        hosts = [found[1] for found in HOST.finditer(code)]
        yield from ((Word("curl"), Word(host)) for host in (*urls, *hosts))
        if not urls and not hosts and ASKS.search(code):
            yield (Word("curl"), UNKNOWN)
    else:
        yield from ((Word("curl"), Word(found[1])) for found in READS_URL.finditer(code))


def _like_command(name: str, arguments: list[Word]) -> Iterator[Runs]:
    owner, _, function = name.replace("->", ".").replace("::", ".").rpartition(".")
    texts = [word for word in arguments if word != UNKNOWN]
    if function in NEED_OWNER and not owner:
        return
    if function in OPENERS:
        if function == "open" or function == "fopen" or owner in ("File", "IO.File"):
            yield from _opened(texts)
    elif function in TREES:
        yield from ((Word("rm"), Word("-rf"), word) for word in arguments[:1] if texts or word == UNKNOWN)
    elif function in LIKE_COMMANDS and (texts or function == "kill") and owner not in ("Hash", "Array"):
        if function.startswith("ch"):
            texts = [word for word in texts if not word.text.isdecimal()]
        only_first = function in ("write", "binwrite", "file_put_contents", "write_file", "truncate", "mkdir")
        yield (*map(Word, LIKE_COMMANDS[function]), *(texts[:1] if only_first else texts))


def _opened(texts: list[Word]) -> Iterator[Runs]:
    """Yields the file that `open` writes, or its command: `">f"`, `">", "f"`, `"f", "w"`, `"|cmd"`, `"-|", "cmd"`."""
    first, second = (*texts, Word(""), Word(""))[:2]
    mode = re.match(r"\s*\+?[<>]{1,2}(?::\w+(?:\([\w-]+\))?)?\s*", first.text)
    if first.text.strip() in ("-|", "|-"):
        yield second
    elif first.text.startswith("|") or first.text.rstrip().endswith("|"):
        yield Word(first.text.strip().strip("|"), first.is_resolved)
    elif mode is not None and (">" in mode[0] or "+" in mode[0]):
        path = Word(first.text[mode.end() :], first.is_resolved) if first.text[mode.end() :] else second
        yield (Word("tee"), path)
    elif re.fullmatch(r"[rwax]?[bt]?\+?[bt]?(?::[\w:-]+)?", second.text) and set(second.text.partition(":")[0]) & set(
        "wax+"
    ):
        yield (Word("tee"), first)


def _arguments(code: str, start: int, given: Mapping[str, str]) -> list[Word]:
    """Returns the arguments at `start`, up to the end of the list; `UNKNOWN` for an expression."""
    words: list[Word] = []
    is_after_comma = True
    for _ in range(MAX_ARGUMENTS * 8):
        found = ARGUMENT.match(code, start)
        mark = code[start : start + 1]
        if (found is None and mark not in (",", "(")) or (found is not None and found[5] in ENDS):
            break
        start = found.end() if found else start + 1
        if found is None:
            is_after_comma = is_after_comma or mark == ","
        elif is_after_comma and found[0].strip() and found[0] not in "[<\\" and found[5] not in TRANSPARENT:
            is_after_comma = False
            words.append(_argument(found, given))
        elif not is_after_comma and (found[1] or found[3] or found[4]):
            words[-1] = _joined("", (words[-1], _argument(found, given)))
    return words[:MAX_ARGUMENTS]


def _joined_path(arguments: str, given: Mapping[str, str]) -> str:
    """Returns the literal of a path that `File.join` puts together."""
    return f'"{"/".join(word.text for word in _arguments(arguments, 0, given))}"'


def _argument(found: re.Match[str], given: Mapping[str, str]) -> Word:
    if found[4]:
        return Word("~")
    if found[5]:
        if found[5].lstrip("-").isdigit():
            return Word(found[5])
        return Word(given[found[5]]) if found[5] in given else UNKNOWN
    literal = found[2] if found[1] else found[3]
    if literal is None:
        return UNKNOWN
    if found[1] == "'":
        return Word(literal)
    text = re.sub(rf"#?\{{?{HOME}\}}?", "~", literal)
    text = re.sub(r"#\{(\w+)\}|(\$\w+)", lambda part: given.get(part[1] or part[2], UNKNOWN.text), text)
    return Word(text, UNKNOWN.text not in text and "#{" not in text)


def _is_home(code: str) -> bool:
    return re.search(HOME, code) is not None


def _joined(separator: str, words: tuple[Word, ...]) -> Word:
    return Word(separator.join(word.text for word in words), all(word.is_resolved for word in words))
