"""Commands for the network, their hosts, and downloads or decoded text run unseen."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from luthien_litellm_hooks.policies.shell.launchers import INTERPRETERS, PYTHON, SHELLS, script_file_of
from luthien_litellm_hooks.policies.shell.model import Command, Origins, Word
from luthien_litellm_hooks.policies.shell.paths import joined_path, operands_of, redirected_words, written_words

NETWORK_PROGRAMS = frozenset(
    {"curl", "wget", "nc", "ncat", "netcat", "telnet", "ssh", "scp", "sftp"}
    | {"ftp", "lftp", "tftp", "aria2c", "http", "https", "httpie", "xh", "lynx"}
    | {
        "w3m",
        "links",
        "elinks",
        "socat",
        "rclone",
        "mosh",
        "iwr",
        "irm",
        "invoke-webrequest",
        "invoke-restmethod",
        "start-bitstransfer",
    }
    | {"wget2", "curlie", "nscurl", "axel", "httrack", "lwp-download", "lwp-request", "puf", "youtube-dl"}
    | {"yt-dlp", "websocat", "grpcurl", "hey", "ab", "ncftp", "ncftpget", "ncftpput", "tnftp"}
    | {"smbclient", "smbget", "sshfs", "curlftpfs", "mount.cifs", "dbclient", "autossh", "plink", "pscp", "psftp"}
    | {"ssh-copy-id", "ssh-keyscan", "rsh", "rlogin", "rcp", "whois", "dig", "nslookup", "host", "drill"}
    | {"kdig", "delv", "doggo", "dog", "nmap"}
    | {"ngrok", "wormhole", "cadaver"}
)
LWP = frozenset({"GET", "POST"})
"""Programs whose names differ from others only by their case."""
COPIES = frozenset({"rsync", "scp", "rcp", "pscp"})
"""Programs that also copy on this machine."""
LISTENERS = frozenset({"nc", "ncat", "netcat"})
GIT_NETWORK = frozenset({"clone", "push", "fetch", "pull", "ls-remote", "svn", "p4"})
GIT_PARTS = {"submodule": ("add", "update"), "remote": ("update", "show", "prune"), "lfs": ("fetch", "pull", "push")}
"""Commands of git that reach other hosts by these commands of their own."""
GIT_VALUED = frozenset({"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path"})
INSTALLERS = frozenset({"pip", "pip3", "pipx", "uv", "npm", "pnpm", "yarn", "bun", "cargo", "gem", "poetry", "conda"})
TELLS_ITSELF = frozenset({"--help", "--version", "-V", "-h", "--manual", "-v", "-version", "-help"})
URL = re.compile(r"(?:https?|ftp|ftps|ssh|git|sftp|wss?)://[^\s'\"<>|;]+", re.IGNORECASE)
REMOTE = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//)")
DOWNLOADERS = frozenset(
    {"curl", "wget", "fetch", "http", "https", "xh", "aria2c", "lynx", "iwr", "irm", "invoke-webrequest"}
    | {"invoke-restmethod", "nc", "ncat", "netcat", "lwp-request", "ftp", "tftp", "lftp", "scp"}
    | {"wget2", "curlie", "axel", "nscurl", "lwp-download", "get", "socat", "telnet", "ssh", "sftp", "dbclient"}
)
CLOUD_COPIES = {"aws": ("cp",), "gsutil": ("cp", "cat"), "gcloud": ("cp", "cat"), "rclone": ("cat",), "gh": ("api",)}
SOCKET = re.compile(r"/dev/(?:tcp|udp)/")
DECODERS = frozenset({"base64", "base32", "xxd", "openssl", "uudecode", "gunzip", "zcat", "gpg"})
EVALUATORS = frozenset({"eval", "source", ".", "iex", "invoke-expression"})
CODE_OPTION = re.compile(r"-[a-zA-Z]*[ceEr]|--eval|--command")


def contacts_network(command: Command) -> bool:
    """Tells if reaching other hosts is the purpose of `command`. A package manager counts if it installs from a URL."""
    name, texts = command.name.lower(), command.texts
    if any(redirect.target.text.startswith(("/dev/tcp/", "/dev/udp/")) for redirect in command.redirects):
        return True
    if name in COPIES:
        return any(REMOTE.match(word.text) or "://" in word.text for word in operands_of(command))
    if name in NETWORK_PROGRAMS or command.name in LWP:
        is_listener = name in LISTENERS and any(re.fullmatch(r"-[a-zA-Z]*l[a-zA-Z]*|--listen", text) for text in texts)
        return not is_listener and not _tells_itself(name, texts)
    if name == "git":
        return _git_contacts(texts)
    return installs_from_url(command) or (name == "openssl" and not {"s_client", "s_time"}.isdisjoint(texts))


def installs_from_url(command: Command) -> bool:
    """Tells if a package manager gets a package from a URL instead of its registry."""
    is_python = PYTHON.fullmatch(command.name) is not None and command.texts[:2] == ("-m", "pip")
    if command.name not in INSTALLERS and not is_python:
        return False
    pairs = zip(("", *command.texts), command.texts, strict=False)
    return any(
        "://" in text
        and not text.startswith(("-", "file:"))
        and (not before.startswith("-") or before in ("--git", "-e", "--editable", "-g", "-D", "-U", "-q"))
        for before, text in pairs
    )


def _tells_itself(name: str, texts: tuple[str, ...]) -> bool:
    """Tells if a program only prints its version or its help, or does nothing because it got no words."""
    if not texts:
        return name in ("curl", "wget", "wget2", "ssh", "nc", "ncat", "dig", "ping")
    return texts[0] in ("--help", "--version") or (len(texts) == 1 and texts[0] in TELLS_ITSELF)


def _git_contacts(texts: tuple[str, ...]) -> bool:
    """Tells if a git command reaches another host: not for the path of a repository on this machine."""
    words = [
        text
        for before, text in zip(("", *texts), texts, strict=False)
        if not text.startswith("-") and before not in GIT_VALUED
    ]
    if not words:
        return False
    command, *rest = words
    if command == "archive":
        return any(text.startswith("--remote") for text in texts)
    if command in GIT_PARTS:
        return bool(rest) and rest[0] in GIT_PARTS[command]
    if command not in GIT_NETWORK:
        return False
    if command == "clone":
        return not rest or any(
            "://" in text or REMOTE.match(text) or "$" in text for text in rest if not _is_local(text)
        )
    return not (rest and _is_local(rest[0]))


def _is_local(repository: str) -> bool:
    return repository.startswith(("/", "./", "../", "~/", "file://")) or repository in (".", "..")


def urls(command: Command) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url for text in command.texts for url in URL.findall(text)))


class Downloads:
    """Downloads of a script, and their use. Ask about its commands in their order."""

    def __init__(self) -> None:
        self._saved: set[str] = set()
        self._downloads = Origins(_is_download)
        self._decoders = Origins(_decodes)

    def danger(self, command: Command) -> str | None:
        """Returns the reason why `command` runs foreign code; None if it does not."""
        if command.name in SHELLS and any(SOCKET.match(redirect.target.text) for redirect in command.redirects):
            return f"a shell connected to another host ({command.program})"
        sources = _sources_of_code(command)
        if self._downloads.among(sources):
            return f"a download run unseen ({command.program})"
        if command.stdin is None and self._decoders.among(sources):
            return f"unreadable decoded text run ({command.program})"
        if _file_run(command) in self._saved:
            return f"a download run unseen ({command.program})"
        if _is_download(command):
            self._saved |= _saved_by_download(command)
        elif self._downloads.among(command.fed_by):
            self._saved |= {joined_path(command.directory.text, word.text) for word in written_words(command)}
        return None


def _is_download(command: Command) -> bool:
    name = command.name.lower()
    if any(SOCKET.match(redirect.target.text) for redirect in command.redirects):
        return True
    return name in DOWNLOADERS or bool(set(CLOUD_COPIES.get(name, ())) & set(command.texts))


def _sources_of_code(command: Command) -> tuple[Command, ...]:
    """Returns the commands whose output `command` runs directly as code."""
    name = command.name.lower()
    if not command.is_name_resolved:
        return command.fed_by if _may_be_shell(command) else ()
    is_interpreter = PYTHON.fullmatch(name) is not None or name in INTERPRETERS
    if name in EVALUATORS:
        return (*command.built_from, *(command.fed_by if name in ("iex", "source", ".") else ()))
    if name not in SHELLS and not is_interpreter:
        return ()
    has_code = any(CODE_OPTION.fullmatch(text) for text in command.texts)
    file = script_file_of(command) if name in SHELLS else _first_operand(command)
    if has_code or (file is not None and not file.is_resolved):
        return command.built_from
    if file is None or file.text in ("-", "/dev/stdin"):
        return (*command.fed_by, *command.built_from)
    return ()


def _may_be_shell(command: Command) -> bool:
    """Tells if an unknown program may be a shell that reads its input: it has no arguments but a shell's options."""
    has_other_name = re.search(r"PAGER|EDITOR|LESS|VIEW|CAT|JQ|GREP|SED|AWK|TAR", command.program.upper()) is not None
    return not has_other_name and all(re.fullmatch(r"-|-[a-z]*s|--", text) for text in command.texts[:1])


def _first_operand(command: Command) -> Word | None:
    return next((word for word in command.words if not word.text.startswith("-")), None)


def _decodes(command: Command) -> bool:
    options = set(command.texts)
    if command.name in ("gunzip", "zcat", "uudecode"):
        return True
    letters = "".join(text for text in options if text.startswith("-"))
    return command.name in DECODERS and bool({"-d", "-D", "--decode", "-di", "--decrypt"} & options or "r" in letters)


def _file_run(command: Command) -> str:
    file = script_file_of(command) or (_first_operand(command) if PYTHON.fullmatch(command.name) else None)
    return joined_path(command.directory.text, file.text if file else command.program)


def _saved_by_download(command: Command) -> set[str]:
    named = {word.text for word in (*written_words(command), *redirected_words(command))}
    is_by_url = command.name == "wget" or any(
        re.fullmatch(r"-[a-zA-Z]*O|--remote-name", text) for text in command.texts
    )
    if is_by_url and not (named and command.name == "wget"):
        named |= {url.partition("?")[0].rsplit("/", 1)[-1] for url in urls(command)}
    return {joined_path(command.directory.text, name) for name in named}


UNKNOWN_HOST = ""


def host_of(url: str) -> str:
    """Returns the host in a URL, with or without a scheme; `UNKNOWN_HOST` if readers could disagree."""
    url = url.strip()
    if not url.isprintable() or " " in url or "\\" in url:
        return UNKNOWN_HOST
    try:
        host = urlsplit(url if "://" in url else f"//{url}").hostname
    except ValueError:
        return UNKNOWN_HOST
    return (host or UNKNOWN_HOST).rstrip(".").lower()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class _Client:
    """Options of a client that leave its host as named. Any other option makes the host unknown."""

    flags: str = ""
    """Letters of the options without a value."""
    long: frozenset[str] = frozenset()
    valued: frozenset[str] = frozenset()
    has_one: bool = True
    """True if only the first operand is a host."""


_CURL = _Client(
    "0123468aBfgGiIjJklLnNOqRsSvZ#",
    _words(
        "--silent --show-error --fail --location --verbose --include --insecure --head --compressed --globoff --get "
        "--no-progress-meter --fail-with-body --no-buffer --remote-name --remote-header-name --http1.1 --http2 "
        "--ipv4 --ipv6 --progress-bar --create-dirs --no-keepalive --retry-connrefused --retry-all-errors --no-alpn "
        "--http2-prior-knowledge --path-as-is --location-trusted --parallel --tcp-nodelay --raw --disable"
    ),
    _words(
        "-o --output -H --header -d --data --data-raw --data-binary --data-ascii --data-urlencode --json -X --request "
        "-u --user -A --user-agent -F --form --form-string -b --cookie -c --cookie-jar -w --write-out -m --max-time "
        "--connect-timeout --retry --retry-delay --retry-max-time -e --referer -r --range -T --upload-file -D "
        "--dump-header --cacert --cert --key -E --output-dir --limit-rate --max-redirs --oauth2-bearer -C "
        "--url-query --trace --trace-ascii --stderr --max-filesize --parallel-max -z --time-cond"
    ),
    has_one=False,
)
_WGET = _Client(
    "qvcNSrkpEFbd46",
    _words(
        "--quiet --no-verbose --no-check-certificate --spider --server-response --continue --timestamping --recursive "
        "--page-requisites --no-parent --content-disposition --debug --verbose --show-progress --no-cache -nv -nc -nd "
        "-np -nH --no-clobber --no-directories --retry-connrefused"
    ),
    _words(
        "-O --output-document -T --timeout -t --tries --method --body-data --body-file --post-data --post-file "
        "--header "
        "-U --user-agent --user --password -P --directory-prefix -w --wait -o --output-file -a --append-output "
        "--max-redirect --connect-timeout --read-timeout -l --level --waitretry --load-cookies --save-cookies"
    ),
    has_one=False,
)
_NETCAT = _Client("zvnuN46dktCr", valued=_words("-w -q -i -p -s"))
_HTTPIE = _Client(
    "vhbfjdFI",
    _words("--form --json --ignore-stdin --verbose --headers --body --check-status --follow --download --stream"),
    _words("-a --auth -A --auth-type -o --output -p --print -s --style --pretty --timeout"),
)
_BENCH = _Client("kqlv", _words("--latency -disable-keepalive"), _words("-n -c -t -s -z -q -m -d -H -T -p -D -A"))
_GRPC = _Client("v", _words("-plaintext -insecure -v -emit-defaults --text --binary"), _words("-d -H -proto"))
_CLIENTS = MappingProxyType(
    {"curl": _CURL, "curlie": _CURL, "wget": _WGET, "wget2": _WGET, "http": _HTTPIE, "https": _HTTPIE}
    | dict.fromkeys(("nc", "ncat", "netcat", "telnet"), _NETCAT)
    | {"xh": _HTTPIE, "ab": _BENCH, "hey": _BENCH, "grpcurl": _GRPC}
)
_SOCKET = re.compile(r"/dev/(?:tcp|udp)/([^/$`]+)/")
_IPV6 = re.compile(r"[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}")
_METHOD = re.compile(r"[A-Z]+")
_PLAIN_AUTHORITY = re.compile(
    r"((?:\w+://)?[^\s/?#$`@\\]+)(?::\$\{?\w*PORT\w*\}?)?(?:[/?#].*)?", re.IGNORECASE | re.DOTALL
)
_URL = re.compile(r"(?:git\+|\w+ ?@ ?)?((?:https?|ftp|ssh|git|wss?)://[^\s#]+)")
_PROXY = re.compile(r"(?i)\b(?:https?|all|ftp)_proxy=[\"']?([^\s\"';&|]+)")


def hosts_of_command(command: Command) -> tuple[str, ...]:
    """Returns the hosts contacted by a command of the network.

    The host of a client or an option that is not in the tables above is unknown.
    """
    sockets = [redirect.target.text for redirect in command.redirects if redirect.target.text.startswith("/dev/")]
    found = [match[1] for text in sockets if (match := _SOCKET.match(text))]
    if found:
        return tuple(found)
    client = _CLIENTS.get(command.name.lower())
    if client is not None:
        hosts = _hosts_of_client(command, client)
    elif command.name == "git":
        hosts = tuple(host_of(found[1]) for text in command.texts if (found := _URL.fullmatch(text)))
    else:
        hosts = tuple(host_of(found[1]) for word in command.words if (found := _URL.fullmatch(word.text)))
        hosts = hosts if installs_from_url(command) else ()
    return hosts or (UNKNOWN_HOST,)


def proxies_of(script: str) -> Iterator[str]:
    """Yields the hosts of the proxies that a script sets in the environment."""
    for found in _PROXY.finditer(script):
        yield host_of(found[1])


def _hosts_of_client(command: Command, client: _Client) -> tuple[str, ...]:
    operands = _operands(command.words, client)
    if operands is None or any("$(" in word.text or "`" in word.text for word in command.words if not word.is_resolved):
        return (UNKNOWN_HOST,)
    if client is _HTTPIE:
        operands = [word for word in operands if not _METHOD.fullmatch(word.text)]
        if operands and re.match(r":(?:\d|/|$)", operands[0].text):  # its short form of this machine
            return ("localhost",)
    return tuple(_host_of_word(word) for word in (operands[:1] if client.has_one else operands))


def _host_of_word(word: Word) -> str:
    text = word.text
    if word.is_resolved:
        return text.lower() if _IPV6.fullmatch(text) else host_of(text)
    plain = _PLAIN_AUTHORITY.fullmatch(text)
    return host_of(plain[1]) if plain else UNKNOWN_HOST


def _operands(words: Sequence[Word], client: _Client) -> list[Word] | None:
    """Returns the words except options and their values; None if an option is not in the client's tables."""
    operands: list[Word] = []
    is_value = False
    for word in words:
        text = word.text
        if is_value:
            is_value = False
        elif not text.startswith("-") or text == "-":
            operands.append(word)
        elif text.partition("=")[0] in client.valued:
            is_value = "=" not in text
        elif text not in client.long and text.partition("=")[0] not in client.long:
            ending = _ending(text, client)
            if ending is None:
                return None
            is_value = ending
    return operands


def _ending(text: str, client: _Client) -> bool | None:
    """Reads a cluster such as `-so`: True if its value is the next word, None if a letter is unknown."""
    if text.startswith("--"):
        return None
    for index, letter in enumerate(text[1:], 1):
        if f"-{letter}" in client.valued:
            return index == len(text) - 1
        if letter not in client.flags:
            return None
    return False
