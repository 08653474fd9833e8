"""`protect_proxy`: keeps an agent from stopping, reconfiguring or bypassing its own proxy."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from luthien_litellm_hooks.policies.rules import PathText, ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.rules.conditions import Check, Outcome, by_setting, by_text, unless_unclear
from luthien_litellm_hooks.policies.rules.sql import SqlPattern
from luthien_litellm_hooks.policies.rules.statements import find_sql
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.policies.shell import Command, Origins, contacts_network
from luthien_litellm_hooks.policies.tool_rules import CompiledRule, ToolRules
from luthien_litellm_hooks.policy.patterns import compile_pattern, quoted
from luthien_litellm_hooks.recording.state import STATE_INDEX, approvals_path

_CONFIG_FILES = ("litellm_config.y{a,}ml", "litellm-config.y{a,}ml", "proxy_config.y{a,}ml", "proxy_server_config.yaml")
_AGENT_SETTINGS = (".claude/settings*.json", "~/.claude{,.json}", "~/.codex{,/config.toml}")  # with the proxy's address
_ENVIRONMENT_FILES = ("~/.{bashrc,bash_profile,profile,zshrc,zshenv,zprofile}", "~/.config/fish/**", ".env", ".envrc")
_CLIENT_SETTINGS = (  # of other agents; a whole file may be edited, but for the address of the models
    "opencode.json{c,}",
    "~/.config/{opencode,goose,crush,io.datasette.llm}/**",
    ".{continue,gemini,qwen,roo,cline,crush}/**",
    ".aider.conf.y{a,}ml",
    ".vscode/settings.json",
    ".zed/settings.json",
    "~/.config/zed/settings.json",
)
_BASE_URL = r"(?i)(?:base|api|endpoint)[_-]?(?:url|base)|apiBase|baseURL|endpoint"
_RECORDS = ("luthien/{records,approvals}.sqlite*",)
_PATH_VARIABLES = ("CONFIG_FILE_PATH", "LUTHIEN_POLICY_CONFIG", "LUTHIEN_RECORDS")
_VARIABLES = (
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_BEDROCK_BASE_URL",
    "ANTHROPIC_VERTEX_BASE_URL",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "OPENAI_BASE_URL",
    "OPENAI_API_BASE",
    "GOOGLE_GEMINI_BASE_URL",
)
_REASON = "the proxy itself"


class ProtectProxyConfig(ToolPolicyConfig):
    """Settings of `protect_proxy`."""

    names: tuple[str, ...] = ("litellm", "luthien")
    """Words in the names of the proxy's processes, services, containers and database."""
    ports: tuple[int, ...] = (4000,)
    """Ports of the proxy."""
    config_files: tuple[PathText, ...] = ()
    """Globs of more files with settings of the proxy."""


class ProtectProxy(ToolRules):
    """Blocks calls that stop the proxy, change its settings, call its admin endpoints, or send agents elsewhere.

    This covers its process, service, container and database, the settings that lead agents to it, and the decisions of
    people about tool calls.
    """

    Config = ProtectProxyConfig

    def __init__(self, config: ProtectProxyConfig | None = None) -> None:
        config = config or ProtectProxyConfig()
        own = [os.path.abspath(path) for name in _PATH_VARIABLES if (path := os.environ.get(name))]
        own.append(f"{os.path.abspath(approvals_path(os.environ).expanduser())}*")
        packages = [f"site-packages/{_glob_of(name)}*/**" for name in config.names]
        files = [*_CONFIG_FILES, *_RECORDS, *_AGENT_SETTINGS, *packages, *config.config_files, *own]
        rules: list[dict[str, object]] = [
            {"kind": "file_write", "paths": files},
            {"kind": "file_write", "paths": _ENVIRONMENT_FILES, "args": {"*": f"re:{'|'.join(_VARIABLES)}"}},
            {"kind": "file_write", "paths": _CLIENT_SETTINGS, "args": {"*": f"re:{_BASE_URL}"}},
            {"kind": "web", "args": {"*": f"re:(?i){ADMIN_ENDPOINT}"}},
        ]
        super().__init__(ToolRulesConfig.blocking(*rules, reason=_REASON, config=config))
        names = tuple(name.casefold() for name in config.names)
        proxy = Proxy(names, config.ports, (os.getpid(), os.getppid()))
        self._rules += (CompiledRule(_REASON, _threat(proxy)), CompiledRule(_REASON, _overrides()))


def _glob_of(name: str) -> str:
    """Returns a glob of the folder of a package with this name."""
    return "".join(character if character.isalnum() else "?" for character in name)


_COMMAND_LINES = (
    "/usr/bin/python3 /usr/local/bin/litellm --config litellm_config.yaml --port 4000",
    "python -m litellm",
    "uvicorn litellm.proxy.proxy_server:app",
    "gunicorn",
    "hypercorn",
)
"""Command lines of a proxy's processes, for comparison with the pattern of `pkill`."""

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
        "screen",
        "tmux",
    }
)
_MANAGED = frozenset(
    {"stop", "kill", "restart", "reload", "disable", "mask", "delete", "scale", "unload", "bootout", "rollout", "edit"}
    | {"rm", "remove", "uninstall", "set", "patch", "down", "d"}
    | {"quit", "kill-session", "kill-window", "kill-pane", "respawn-pane", "replace"}
)
_CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
_COMPOSES = frozenset({"docker-compose", "podman-compose"})
_STOPS = frozenset({"stop", "kill", "rm", "restart", "pause", "down", "update", "rename"})
_INSTALLERS = frozenset({"pip", "pip3", "uv", "pipx", "poetry", "conda", "apt", "apt-get", "brew"})
_REMOVALS = frozenset({"uninstall", "remove", "purge"})
_DATABASES = frozenset({"psql", "mysql", "mariadb", "sqlite3", "dropdb", "mysqladmin"})
_MAX_PATTERN = 200  # characters
_COSTLY = compile_pattern(r"\{[0-9]|\\[pP]")  # an expanded repetition, a class of thousands
_REDIS_CLIENTS = frozenset({"redis-cli", "valkey-cli", "keydb-cli", "iredis"})
_DESTRUCTIVE = tuple(SqlPattern.parse(text) for text in ("DROP", "TRUNCATE", "DELETE", "UPDATE", "ALTER"))

ADMIN_ENDPOINT = (
    r"/(?:config/(?:update|field|pass_through|yaml)|model/(?:new|update|delete)|team/(?:new|update|delete|block)"
    r"|key/(?:generate|update|delete|block|unblock|regenerate)|user/(?:new|update|delete)|guardrails|policies"
    r"|luthien/(?:reload|open|approvals|grants|ui)|organization/(?:new|update|delete)|budget/(?:new|update|delete)|credentials"
    r"|customer/(?:new|update|delete|block)|model/[\w.-]+/update)\b"
)
"""Paths of LiteLLM for reconfiguring a proxy."""

_ADMIN_URL = compile_pattern(rf"(?i)(?:://|localhost|127\.0\.0\.1|0\.0\.0\.0|_URL|_BASE)[^\s]*{ADMIN_ENDPOINT}")
_POLICY_PATH = "/luthien/policy"
_POLICY_URL = compile_pattern(rf"(?i){_POLICY_PATH}\b")
_CHANGING = compile_pattern(
    r"(?:-X|--request[= ]?|--method[= ]?)?(?:POST|PUT|PATCH|DELETE)"
    r"|-[a-zA-Z]*[dFT].*|--(?:data|json|form|post|body|upload).*"
)
"""Words of a client for a request that changes something."""

_PROVIDERS = compile_pattern(
    r"(?i)\b(?:api\.(?:openai|anthropic|mistral|groq|deepseek|x|cohere|together|fireworks|perplexity|cerebras)\.(?:com|ai|xyz)"
    r"|generativelanguage\.googleapis\.com|[\w-]*aiplatform\.googleapis\.com|openrouter\.ai/api|api\.together\.xyz"
    r"|[\w-]+\.openai\.azure\.com|bedrock-runtime\.[\w-]+\.amazonaws\.com|api\.z\.ai|api\.moonshot\.(?:ai|cn))"
)
_INTERPRETER = re.compile(r"python[0-9.]*|node|deno|bun|ruby|perl|php|uv")
_AGENT_PROGRAMS = frozenset(
    {"codex", "claude", "gemini", "opencode", "aider", "goose", "qwen", "crush", "llm", "cursor-agent"}
)
_ADDRESS_OPTION = compile_pattern(
    r"(?i).*(?:base[_-]?url|api[_-]?base|model_provider|endpoint|(?:ANTHROPIC|OPENAI)_\w*URL).*"
)
_DECISIONS = frozenset({"approve", "deny", "revoke"})
_READERS = frozenset(
    {"cat", "ls", "env", "printenv", "ps", "head", "tail", "grep", "wc", "stat", "id", "whoami", "date", "df", "du"}
)
_SERVES = frozenset({"--config", "-c", "--model", "-m", "--port", "--host"})


@dataclass(frozen=True, slots=True)
class Proxy:
    """Marks of the proxy: words in its names, its ports, its processes."""

    names: tuple[str, ...]
    ports: tuple[int, ...]
    pids: tuple[int, ...]

    def is_named_in(self, texts: Iterable[str]) -> bool:
        return any(name in text.casefold() for text in texts for name in self.names)


def threats_to(proxy: Proxy, commands: Iterable[Command]) -> Iterator[str]:
    """Yields the threats of a script's commands to the proxy, for the operator."""
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
    if _calls_admin(command):
        return f"{command.name} calls an endpoint that reconfigures the proxy"
    if command.name == "luthien-hooks" and "approvals" in command.texts and _DECISIONS.intersection(command.texts):
        return f"{command.name} decides instead of a person"
    if _enters_container(proxy, command):
        return f"{command.name} changes the proxy's container"
    if _starts_another(command) or _calls_provider(command):
        return f"{command.name} goes round the proxy"
    return None


def _calls_admin(command: Command) -> bool:
    lines = "\n".join(command.texts)  # no match goes on beyond its line
    if "/" not in lines:
        return False
    is_change = _POLICY_PATH in lines.lower() and any(map(_CHANGING.fullmatch, command.texts))
    return _ADMIN_URL.search(lines) is not None or (is_change and _POLICY_URL.search(lines) is not None)


def _enters_container(proxy: Proxy, command: Command) -> bool:
    """Tells if the command runs another one than a reading one in the proxy's container, or copies into it."""
    words = command.texts
    is_container = command.name in _CONTAINERS | _COMPOSES or command.name == "kubectl"
    if not is_container or not proxy.is_named_in(words):
        return False
    if "exec" in words:
        place = next(index for index, word in enumerate(words) if proxy.is_named_in([word]))
        inner = [word for word in words[place + 1 :] if not word.startswith("-")]
        return words.index("exec") < place and bool(inner) and inner[0].rpartition("/")[2] not in _READERS
    return "cp" in words and proxy.is_named_in([words[-1].partition(":")[0]]) and ":" in words[-1]


def _starts_another(command: Command) -> bool:
    """Tells if the command starts a proxy, whose settings may be others."""
    words = command.texts
    if command.name == "litellm" or (command.name.startswith("python") and words[:2] == ("-m", "litellm")):
        return any(word.partition("=")[0] in _SERVES for word in words[words[:1].count("-m") :])
    is_server = command.name in ("uvicorn", "gunicorn", "hypercorn")
    return is_server and any("litellm.proxy" in word for word in words)


def _calls_provider(command: Command) -> bool:
    """Tells if the command calls a provider of models itself, or gives an agent another address."""
    if contacts_network(command) or _INTERPRETER.fullmatch(command.name):
        lines = (*command.texts, *([command.stdin.text] if command.stdin else []))
        return _PROVIDERS.search("\n".join(lines)) is not None
    return command.name in _AGENT_PROGRAMS and any(
        _ADDRESS_OPTION.fullmatch(text) for text in command.texts if text.startswith("-") or "=" in text
    )


def _kills(proxy: Proxy, command: Command, finders: Origins) -> bool:
    words = command.texts
    if command.name in _KILL_BY_NAME:
        return _finds_by_name(proxy, words)
    if command.name in ("kill-port", "killport"):
        return _finds_by_port(proxy, words)
    if command.name == "fuser":
        return "-k" in words and _finds_by_port(proxy, words)
    if command.name != "kill":
        return False
    pids = {word.lstrip("-") for word in words[_signals(words) :]}
    return not pids.isdisjoint(map(str, proxy.pids)) or finders.among((*command.fed_by, *command.built_from))


def _finds(proxy: Proxy, command: Command) -> bool:
    """Tells if the command prints the number of the proxy's process."""
    return (command.name in _FINDERS_BY_NAME and _finds_by_name(proxy, command.texts)) or (
        command.name in _FINDERS_BY_PORT and _finds_by_port(proxy, command.texts)
    )


def _signals(words: Sequence[str]) -> int:
    """Counts the words of `kill` for the signal."""
    return 2 if words[:1] in (("-s",), ("-n",)) else int(bool(words) and words[0].startswith("-"))


def _finds_by_name(proxy: Proxy, words: Iterable[str]) -> bool:
    lines = (*_COMMAND_LINES, *proxy.names)
    return any(_matches(word, lines) for word in words if word and not word.startswith("-"))


def _matches(text: str, lines: Iterable[str]) -> bool:
    """Tells if a pattern matches a line; a pattern that takes long to compile counts as a match."""
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
    """Tells if the command stops the proxy's container. A whole compose project, and all containers, may have it."""
    words = command.texts
    if _STOPS.isdisjoint(words):
        return False
    if command.name in _COMPOSES or (command.name in _CONTAINERS and "compose" in words):
        verb = next(index for index, word in enumerate(words) if word in _STOPS)
        has_services = any(not word.startswith("-") and not word.isdigit() for word in words[verb + 1 :])
        return proxy.is_named_in(words) or not (has_services or words[verb] == "restart")
    if command.name not in _CONTAINERS:
        return False
    return proxy.is_named_in(words) or any(map(_lists_all, (*command.built_from, *command.fed_by)))


def _lists_all(command: Command) -> bool:
    """Tells if the command prints the names of all containers."""
    words = command.texts
    is_listing = command.name in _CONTAINERS and not {"ps", "ls", "list"}.isdisjoint(words)
    is_narrowed = any(word.startswith(("-f", "--filter")) for word in words)
    return is_listing and not is_narrowed and any(word.startswith("-") and "q" in word for word in words)


def _harms_database(proxy: Proxy, command: Command) -> bool:
    texts = (*command.texts, *([command.stdin.text] if command.stdin is not None else []))
    if command.name in _REDIS_CLIENTS and any(STATE_INDEX in text for text in texts):
        return True
    if command.name not in _DATABASES or not proxy.is_named_in(texts):
        return False
    return command.name == "dropdb" or "drop" in texts or any(find_sql(text, _DESTRUCTIVE) for text in texts)


def overriding(variables: Iterable[str]) -> str:
    """Returns a regular expression of scripts that set or unset one of the variables."""
    names = f"(?:{'|'.join(map(quoted, variables))})"
    return (
        rf"(?:^|[^\w$]){names}\s*[+:]?=|\b(?:unset|setx?|export\s+-n)\s[^;&|\n]*\b{names}\b"
        rf"|\benv\s[^;&|\n]*(?:-u\s*|--unset[= ]){names}\b"
    )


def _threat(proxy: Proxy) -> Check:
    def check(use: ToolUse) -> Outcome:
        return by_setting("command", threats_to(proxy, use.commands), unless_unclear(use))

    return check


def _overrides() -> Check:
    pattern = compile_pattern(overriding(_VARIABLES))

    def check(use: ToolUse) -> Outcome:
        overridden: Iterator[str] = (script for script in use.scripts if pattern.search(script))
        return by_text("variable", overridden, unless_unclear(use))

    return check
