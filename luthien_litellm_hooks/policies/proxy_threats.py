"""What a shell command would do to the proxy that its agent runs through."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from luthien_litellm_hooks.parsing.patterns import compile_pattern, quoted
from luthien_litellm_hooks.parsing.shell_model import Command
from luthien_litellm_hooks.parsing.shell_origins import Origins
from luthien_litellm_hooks.parsing.sql import SqlPattern, find_sql

_COMMAND_LINES = (
    "/usr/bin/python3 /usr/local/bin/litellm --config litellm_config.yaml --port 4000",
    "python -m litellm",
    "uvicorn litellm.proxy.proxy_server:app",
    "gunicorn",
    "hypercorn",
)
"""What processes of a proxy are called; what `pkill` is given is a pattern of them."""

_KILL_BY_NAME = frozenset({"pkill", "killall", "skill", "taskkill"})
_FINDERS_BY_NAME = frozenset({"pgrep", "pidof", "grep", "egrep", "rg", "awk"})
_FINDERS_BY_PORT = frozenset({"lsof", "fuser", "ss", "netstat"})
_MANAGERS = frozenset(
    {
        "systemctl",
        "service",
        "rc-service",
        "supervisorctl",
        "launchctl",
        "pm2",
        "brew",
        "kubectl",
        "helm",
        "nomad",
        "sv",
    }
)
_MANAGED = frozenset(
    {"stop", "kill", "restart", "reload", "disable", "mask", "delete", "scale", "unload", "bootout", "rollout", "edit"}
    | {"rm", "remove", "uninstall", "set", "patch", "down", "d"}
)
_CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
_COMPOSES = frozenset({"docker-compose", "podman-compose"})
_STOPS = frozenset({"stop", "kill", "rm", "restart", "pause", "down", "update", "rename"})
_INSTALLERS = frozenset({"pip", "pip3", "uv", "pipx", "poetry", "conda", "apt", "apt-get", "brew"})
_REMOVALS = frozenset({"uninstall", "remove", "purge"})
_DATABASES = frozenset({"psql", "mysql", "mariadb", "sqlite3", "dropdb", "mysqladmin"})
_MAX_PATTERN = 200  # characters
_COSTLY = compile_pattern(r"\{[0-9]|\\[pP]")  # a repetition that is written out, a class of thousands
_DESTRUCTIVE = tuple(SqlPattern.parse(text) for text in ("DROP", "TRUNCATE", "DELETE", "UPDATE", "ALTER"))

ADMIN_ENDPOINT = (
    r"/(?:config/(?:update|field|pass_through|yaml)|model/(?:new|update|delete)|team/(?:new|update|delete|block)"
    r"|key/(?:generate|update|delete|block|unblock|regenerate)|user/(?:new|update|delete)|guardrails|policies)\b"
)
"""Paths of LiteLLM by which a proxy is reconfigured."""

_ADMIN_URL = compile_pattern(rf"(?i)(?:://|localhost|127\.0\.0\.1|_URL|_BASE)[^\s]*{ADMIN_ENDPOINT}")


@dataclass(frozen=True, slots=True)
class Proxy:
    """How the proxy can be told: words that name it, its ports, its processes."""

    names: tuple[str, ...]
    ports: tuple[int, ...]
    pids: tuple[int, ...]

    def is_named_in(self, texts: Iterable[str]) -> bool:
        """Whether one of the texts names it."""
        return any(name in text.casefold() for text in texts for name in self.names)


def threats_to(proxy: Proxy, commands: Iterable[Command]) -> Iterator[str]:
    """What the commands of a script would do to the proxy, for the operator."""
    finders = Origins(lambda command: _finds(proxy, command))
    for command in commands:
        threat = _threat_to(proxy, command, finders)
        if threat is not None:
            yield threat


def _threat_to(proxy: Proxy, command: Command, finders: Origins) -> str | None:
    if _kills(proxy, command, finders) or _stops_service(proxy, command) or _stops_container(proxy, command):
        return f"{command.name} stops the proxy"
    if command.name in _INSTALLERS and _REMOVALS.intersection(command.texts) and proxy.is_named_in(command.texts):
        return f"{command.name} removes the proxy"
    if _harms_database(proxy, command):
        return f"{command.name} changes the proxy's database"
    if any(_ADMIN_URL.search(text) for text in command.texts):
        return f"{command.name} calls an endpoint that reconfigures the proxy"
    return None


def _kills(proxy: Proxy, command: Command, finders: Origins) -> bool:
    words = command.texts
    if command.name in _KILL_BY_NAME:
        return _finds_by_name(proxy, words)
    if command.name == "fuser":
        return "-k" in words and _finds_by_port(proxy, words)
    if command.name != "kill":
        return False
    pids = {word.lstrip("-") for word in words[_signals(words) :]}
    return not pids.isdisjoint(map(str, proxy.pids)) or finders.among((*command.fed_by, *command.built_from))


def _finds(proxy: Proxy, command: Command) -> bool:
    """Whether the command tells the number of the proxy's process."""
    return (command.name in _FINDERS_BY_NAME and _finds_by_name(proxy, command.texts)) or (
        command.name in _FINDERS_BY_PORT and _finds_by_port(proxy, command.texts)
    )


def _signals(words: Sequence[str]) -> int:
    """How many of the words of `kill` say the signal."""
    return 2 if words[:1] in (("-s",), ("-n",)) else int(bool(words) and words[0].startswith("-"))


def _finds_by_name(proxy: Proxy, words: Iterable[str]) -> bool:
    lines = (*_COMMAND_LINES, *proxy.names)
    return any(_matches(word, lines) for word in words if word and not word.startswith("-"))


def _matches(text: str, lines: Iterable[str]) -> bool:
    """Whether a pattern is one of a line; what takes long to compile counts as such."""
    if len(text) > _MAX_PATTERN or _COSTLY.search(text):
        return True
    try:
        pattern = compile_pattern(text, ignore_case=True)
    except ValueError:
        return any(text in line for line in lines)
    return any(pattern.search(line) is not None for line in lines)


def _finds_by_port(proxy: Proxy, words: Iterable[str]) -> bool:
    pattern = compile_pattern(rf"\b(?:{'|'.join(map(str, proxy.ports))})\b")
    return any(pattern.search(word) for word in words)


def _stops_service(proxy: Proxy, command: Command) -> bool:
    return command.name in _MANAGERS and bool(_MANAGED.intersection(command.texts)) and proxy.is_named_in(command.texts)


def _stops_container(proxy: Proxy, command: Command) -> bool:
    """A compose project may be the proxy's own, whatever it is called; a container is named, or
    cannot be told."""
    words = command.texts
    if command.name in _COMPOSES or (command.name in _CONTAINERS and "compose" in words):
        return not _STOPS.isdisjoint(words)
    is_unknown = not all(word.is_resolved for word in command.words)
    return command.name in _CONTAINERS and not _STOPS.isdisjoint(words) and (is_unknown or proxy.is_named_in(words))


def _harms_database(proxy: Proxy, command: Command) -> bool:
    texts = (*command.texts, *([command.stdin.text] if command.stdin is not None else []))
    if command.name not in _DATABASES or not proxy.is_named_in(texts):
        return False
    return command.name == "dropdb" or "drop" in texts or any(find_sql(text, _DESTRUCTIVE) for text in texts)


def overriding(variables: Iterable[str]) -> str:
    """A regular expression of scripts that set or unset one of the variables."""
    names = f"(?:{'|'.join(map(quoted, variables))})"
    return (
        rf"(?:^|[^\w$]){names}\s*[+:]?=|\b(?:unset|setx?|export\s+-n)\s[^;&|\n]*\b{names}\b"
        rf"|\benv\s[^;&|\n]*(?:-u\s*|--unset[= ]){names}\b"
    )
