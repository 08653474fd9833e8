"""Input and output of commands: known texts, pipes, redirections, and files written by options, archives, editors."""

import base64
import binascii
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tree_sitter import Node

from luthien_litellm_hooks.policies.shell.batches import found_by_fd, found_by_find
from luthien_litellm_hooks.policies.shell.model import HERE, Command, Redirect, Word
from luthien_litellm_hooks.policies.shell.syntax import is_here_string, text_of
from luthien_litellm_hooks.policies.shell.words import (
    MAX_VALUE,
    Scope,
    TooMuchError,
    text_word,
    text_words,
    without_escapes,
)

TEMPORARY = Word("mktemp.XXXXXXXXXX")
"""Placeholder for a path made by `mktemp`."""
FILTERS = frozenset({"rev", "base64", "openssl", "xxd"})
"""Programs that transform a known input."""
SILENT = frozenset({"true", ":", "false", "sleep", "test", "[", "set", "unset", "shift", "wait", "exit", "return"})
"""Programs without any output."""
CONVERSION = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?([sbdqciuxX%])")


def output_of(command: Command) -> Word | None:
    """Returns the output of `command`; None if unknown."""
    match command.name:
        case "echo":
            return _echo(command.words)
        case "printf":
            return _printf(command.words)
        case "pwd":
            return command.directory if command.directory.text else Word(".")
        case "mktemp" if not any("/" in text for text in command.texts):
            return TEMPORARY
        case "which" | "command" if command.texts and not command.texts[-1].startswith("-"):
            return command.words[-1]
        case "find" | "fd" | "fdfind":
            return _listing((found_by_find if command.name == "find" else found_by_fd)(command.words))
        case name if name in SILENT:
            return Word("")
        case _:
            return _filtered(command)


def _listing(found: tuple[Word, ...] | None) -> Word | None:
    if found is None:
        return None
    return Word("\n".join(word.text for word in found), all(word.is_resolved for word in found))


def _echo(words: tuple[Word, ...]) -> Word:
    options = ""
    while words and re.fullmatch(r"-[neE]+", words[0].text):
        options, words = options + words[0].text, words[1:]
    text = " ".join(word.text for word in words)
    return Word(without_escapes(text) if "e" in options else text, all(word.is_resolved for word in words))


def _printf(words: tuple[Word, ...]) -> Word | None:
    if words and words[0].text == "--":
        words = words[1:]
    if not words or words[0].text == "-v":
        return None
    template, arguments = without_escapes(words[0].text), deque(word.text for word in words[1:])
    parts: list[str] = []
    length = 0
    while True:
        before = len(arguments)
        parts.append(CONVERSION.sub(lambda found: _converted(found[1], arguments), template))
        length += len(parts[-1])
        if length > MAX_VALUE:
            raise TooMuchError
        if not arguments or len(arguments) == before:
            return Word("".join(parts), all(word.is_resolved for word in words))


def _converted(conversion: str, arguments: deque[str]) -> str:
    if conversion == "%":
        return "%"
    text = arguments.popleft() if arguments else ""
    return without_escapes(text) if conversion == "b" else text


def _filtered(command: Command) -> Word | None:
    if command.stdin is None or any(not word.is_resolved for word in command.words):
        return None
    text, options = command.stdin.text, command.texts
    match command.name:
        case "cat" | "tee" if command.name == "tee" or all(option.startswith("-") for option in options):
            return command.stdin
        case "sort" | "uniq" | "tac" | "shuf" if all(option.startswith("-") for option in options):
            return command.stdin
        case "tr" if options in (("\n", "\0"), ("\\n", "\\0"), ("\0", "\n"), ("\\0", "\\n")):
            return Word(text.translate({10: "\0", 0: "\n"}), command.stdin.is_resolved)
        case "rev":
            return Word("\n".join(line[::-1] for line in text.split("\n")), command.stdin.is_resolved)
        case "base64" if {"-d", "-D", "--decode", "-di"} & set(options):
            return _decoded(text)
        case "openssl" if {"-d"} <= set(options) and {"base64", "-base64", "-a"} & set(options):
            return _decoded(text)
        case "xxd" if "r" in "".join(options) and "p" in "".join(options):
            return _from_hexadecimal(text)
        case _:
            return None


def _decoded(text: str) -> Word | None:
    try:
        return Word(base64.b64decode(re.sub(r"\s", "", text)).decode())
    except (binascii.Error, ValueError):
        return None


def _from_hexadecimal(text: str) -> Word | None:
    try:
        return Word(bytes.fromhex(text).decode())
    except ValueError:
        return None


class Files:
    """Texts of the files written by the script, in case it reads or runs them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def text(self, name: str) -> str | None:
        """Returns the content of the file; None if unknown."""
        return self._texts.get(_key(name))

    def write(self, name: str, text: str) -> None:
        self._texts[_key(name)] = text


def _key(name: str) -> str:
    return name.removeprefix("./")


@dataclass(frozen=True, slots=True)
class Input:
    """Standard input of a command."""

    stdin: Word | None = None
    piped_from: Command | None = None
    fed_by: tuple[Command, ...] = ()


def printed_by(commands: Sequence[Command]) -> Input:
    """Returns the joint output of `commands`, as far as it is known."""
    feeding = {id(source) for command in commands for source in (*command.fed_by, *command.built_from)}
    texts = [output_of(command) for command in commands if id(command) not in feeding]
    known = [text for text in texts if text is not None]
    is_resolved = len(known) == len(texts) and all(text.is_resolved for text in known)
    stdin = Word("\n".join(text.text for text in known), is_resolved) if known else None
    return Input(stdin, commands[-1] if commands else None, tuple(commands))


def redirects_of(nodes: Sequence[Node], scope: Scope, files: Files) -> tuple[tuple[Redirect, ...], Word | None]:
    """Returns the redirections to and from files, and the text on standard input; None if unknown."""
    redirects: list[Redirect] = []
    stdin: Word | None = None
    for node in nodes:
        if node.type == "heredoc_redirect":
            stdin = _heredoc(node, scope)
        elif node.type == "herestring_redirect" or is_here_string(node):
            stdin = text_word(node.named_children[-1], scope)
        else:
            redirects += _file_redirects(node, scope)
            if redirects and _operator(node) == "<":
                text = files.text(redirects[-1].target.text)
                stdin = Word(text) if text is not None else stdin
    return tuple(redirects), stdin


def _file_redirects(node: Node, scope: Scope) -> Iterator[Redirect]:
    """Yields the redirection for each possible value of its target."""
    for target in node.children_by_field_name("destination")[:1]:
        for word in text_words(target, scope):
            yield Redirect(_operator(node), word)


def _operator(node: Node) -> str:
    return next((child.type for child in node.children if not child.is_named), ">")


def _heredoc(node: Node, scope: Scope) -> Word:
    bodies = [child for child in node.children if child.type == "heredoc_body"]
    starts = [text_of(child) for child in node.children if child.type == "heredoc_start"]
    if not bodies:
        return HERE
    if starts and starts[0][:1] in "'\"\\":
        return Word(text_of(bodies[0]))
    return text_word(bodies[0], scope)


OUTPUT_OPTIONS = MappingProxyType(
    {
        "openssl": "-out -keyout",
        "sort": "-o --output",
        "shuf": "-o --output",
        "gpg": "-o --output",
        "gpg2": "-o --output",
        "age": "-o --output",
        "age-keygen": "-o --output",
        "sops": "--output",
        "gcc": "-o",
        "cc": "-o",
        "g++": "-o",
        "clang": "-o",
        "ld": "-o",
        "go": "-o",
        "rustc": "-o",
        "pandoc": "-o --output",
        "jq": "-o --output",
        "tcpdump": "-w",
        "strace": "-o --output",
        "ltrace": "-o --output",
        "xmllint": "--output",
        "xsltproc": "-o --output",
        "curl": "-D --dump-header -c --cookie-jar --trace --trace-ascii --stderr --output-dir --libcurl",
        "wget": "-o --output-file -a --append-output -P --directory-prefix --save-cookies --warc-file",
        "wget2": "-O --output-document -o --output-file -a --append-output -P --directory-prefix",
        "aria2c": "-d --dir -o --out -l --log",
        "axel": "-o --output",
        "patch": "-o --output -r --reject-file",
        "unzip": "-d",
        "unrar": "-op",
        "git": "--output --output-directory",
        "pg_dump": "-f --file",
        "pg_dumpall": "-f --file",
        "mysqldump": "-r --result-file",
        "kubeseal": "-w --sealed-secret-file",
        "keytool": "-keystore -destkeystore -file",
        "mkcert": "-cert-file -key-file -p12-file",
        "dot": "-o",
        "bison": "-o --output",
        "flex": "-o",
        "yt-dlp": "-o --output",
        "base64": "-o --output",
        "csplit": "-f --prefix",
        "terraform": "-out -state-out",
        "psql": "-o --output -L --log-file",
        "nmap": "-oN -oX -oG -oA",
    }
)
"""Options whose value is a file, or the directory of files, that the program writes."""

IN_PLACE = MappingProxyType(
    {
        "yq": (r"-[a-zA-Z]*i|--inplace|--in-place", 1),
        "ruby": (r"-[a-zA-Z]*i.*|--in-place", 0),
        "gawk": (r"inplace", 2),
        "awk": (r"inplace", 2),
        "sd": (r"", 2),
        "crudini": (r"--set|--del|--merge", 0),
        "xmlstarlet": (r"-[a-zA-Z]*L|--inplace", 0),
        "dos2unix": (r"", 0),
        "unix2dos": (r"", 0),
        "rpl": (r"", 2),
        "sponge": (r"", 0),
    }
)
"""Editors of files in place: the option that makes them one ("" for none), and their operands before the files."""

AWK = frozenset({"awk", "gawk", "mawk", "nawk"})
ARCHIVERS = frozenset({"tar", "gtar", "bsdtar"})
EDITORS = frozenset({"vim", "vi", "nvim", "ex", "view"})
AWK_REDIRECT = re.compile(r'>{1,2}\s*(?:"([^"\n]+)"|(\w+))')
SED_WRITE = re.compile(r"(?:^|[;{}\n]|[\d$/,|#gpieImM!])[ \t]*[wW][ \t]+([^\s;}][^\n]*)")
VIM_WRITE = re.compile(r"^[:+]?\s*(?:w(?:rite)?|sav(?:eas)?)!?\s+(?:>>\s*)?(\S+)$")
MAKE_WRITE = re.compile(r"\$\(file\s*>{1,2}\s*([^,)\s]+)")
RUN_BY_GIT = re.compile(
    r"(?i)core\.(?:hookspath|fsmonitor|sshcommand|editor|pager|gitproxy|askpass|attributesfile)|alias\..*|pager\..*"
    r"|credential\..*|include(?:if)?\..*|filter\..*|diff\..*\.(?:command|textconv)|sequence\.editor|gpg\..*program"
    r"|(?:diff|merge)tool\..*|url\..*insteadof|remote\..*\.(?:uploadpack|receivepack)"
)
KEYGEN_WITHOUT_OUTPUT = re.compile(r"-[a-zA-Z]*[lyFeiBrKYQ].*")


def output_words(command: Command) -> Iterator[Word]:
    """Yields the files, and the directories of files, that a program writes by its own means."""
    name = command.name
    yield from values_of_options(command, tuple(OUTPUT_OPTIONS.get(name, "").split()))
    if name in IN_PLACE:
        yield from _changed_in_place(command)
    if name in AWK:
        yield from _written_by_awk(command)
    elif name in ("sed", "gsed"):
        yield from _found(SED_WRITE, command.words)
    elif name in EDITORS:
        yield from _found(VIM_WRITE, command.words)
    elif name == "make":
        yield from _found(MAKE_WRITE, command.words)
    elif name in ARCHIVERS:
        yield from _written_by_tar(command)
    elif name in ("7z", "7za", "unrar"):
        yield from (Word(word.text[2:], word.is_resolved) for word in command.words if word.text.startswith("-o"))
    elif name == "patch":
        yield from _operands(command.words, ["-p", "-i", "-d", "-o", "-r", "-B", "-D", "-F", "-V", "-z", "-Y"])[:1]
        yield from values_of_options(command, ("-d", "--directory"))
    elif name in ("uniq", "xxd"):
        yield from _operands(command.words, ["-f", "-s", "-w", "-c", "-l", "-o", "-g"])[1:2]
    elif name in ("ssh-keygen", "ssh-copy-id"):
        yield from _written_by_ssh(command)
    elif name == "git" and "config" in command.texts:
        yield from _written_by_git_config(command)


def values_of_options(command: Command, options: Sequence[str]) -> Iterator[Word]:
    """Yields the values of `options`, after a space, after `=`, or joined to an option of one letter."""
    if not options:
        return
    letters = tuple(option for option in options if len(option) == 2)
    for index, word in enumerate(command.words):
        text = word.text
        option, has_value, value = text.partition("=")
        if text in options:
            yield from command.words[index + 1 : index + 2]
        elif has_value and option in options:
            yield Word(value, word.is_resolved)
        elif text.startswith(letters) and not text.startswith("--") and letters:
            yield Word(text[2:], word.is_resolved)


def _operands(words: Sequence[Word], valued: Sequence[str]) -> list[Word]:
    """Returns the words except options and the values of the options `valued`."""
    return [
        word
        for index, word in enumerate(words)
        if (not word.text.startswith("-") or word.text == "-") and not (index and words[index - 1].text in valued)
    ]


def _changed_in_place(command: Command) -> Iterator[Word]:
    option, skipped = IN_PLACE[command.name]
    if not option or any(re.fullmatch(option, text) for text in command.texts):
        yield from _operands(command.words, ("-e", "-v", "-F", "-p", "-o"))[skipped:]


def _written_by_awk(command: Command) -> Iterator[Word]:
    assigned = dict(text.split("=", 1) for text in command.texts if re.match(r"[A-Za-z_]\w*=", text))
    for text in command.texts:
        for found in AWK_REDIRECT.finditer(text):
            target = found[1] or assigned.get(found[2])
            if target and not target.startswith("/dev/std"):
                yield Word(_home_of(target))


def _found(pattern: re.Pattern[str], words: Sequence[Word]) -> Iterator[Word]:
    for word in words:
        yield from (Word(_home_of(found[1].strip())) for found in pattern.finditer(word.text))


def _home_of(path: str) -> str:
    """Returns the path with `~` for `$HOME` and `ENVIRON["HOME"]`."""
    return re.sub(r"^\$(?:HOME|\{HOME\})(?=/)", "~", path)


def _written_by_tar(command: Command) -> Iterator[Word]:
    """Yields the archive that `tar` makes, or the directory that it unpacks into."""
    texts = command.texts
    first = texts[0].lstrip("-") if texts and not texts[0].startswith("--") else ""
    clusters = first + "".join(text[1:] for text in texts[1:] if re.fullmatch(r"-[a-zA-Z]+", text))
    makes = bool(set("cru") & set(clusters)) or not {"--create", "--append", "--update"}.isdisjoint(texts)
    if "x" in clusters or "--extract" in texts or "--get" in texts:
        yield from values_of_options(command, ("-C", "--directory", "--one-top-level"))
        yield from (
            command.words[index + 1]
            for index, text in enumerate(texts[:-1])
            if re.fullmatch(r"-?[a-zA-Z]+C", text) and text != "-C"
        )
    elif makes:
        yield from values_of_options(command, ("--file",))
        for index, text in enumerate(texts[:-1]):
            if re.fullmatch(r"-[a-zA-Z]*f", text) or (index == 0 and re.fullmatch(r"[a-zA-Z]*f", text)):
                yield command.words[index + 1]


def _written_by_ssh(command: Command) -> Iterator[Word]:
    """Yields the key of `ssh-keygen`, and the file of keys that `ssh-copy-id` changes on the other host."""
    texts = command.texts
    if command.name == "ssh-copy-id":
        if not {"-n", "-h", "-?"} & set(texts):
            yield Word("~/.ssh/authorized_keys")
    elif {"-R", "-H"} & set(texts):
        yield from values_of_options(command, ("-f",)) if "-f" in texts else [Word("~/.ssh/known_hosts")]
    elif not any(KEYGEN_WITHOUT_OUTPUT.fullmatch(text) for text in _options(texts)):
        yield from values_of_options(command, ("-f",)) if "-f" in texts else [Word("~/.ssh/id_rsa")]


def _options(texts: Sequence[str]) -> list[str]:
    """Returns the options of `ssh-keygen` except `-t`, whose value may be joined to it."""
    return [text for text in texts if re.match(r"-[a-zA-Z]", text) and not text.startswith(("-t", "-f", "-N", "-C"))]


def _written_by_git_config(command: Command) -> Iterator[Word]:
    """Yields git's settings if the command sets one that makes git run a program or trust another place."""
    words = _operands(command.words[command.texts.index("config") + 1 :], ("-f", "--file"))
    names = [word for word in words if word.text not in ("set", "unset", "edit")]
    reads = words[:1] != [] and words[0].text in ("get", "list")
    reads = reads or any(text.startswith("--get") for text in command.texts)
    if not reads and len(names) > 1 and RUN_BY_GIT.fullmatch(names[0].text):
        yield Word("~/.gitconfig" if "--global" in command.texts else ".git/config")
