"""Which hosts a tool call contacts."""

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from luthien_litellm_hooks.parsing.shell_model import Command

UNKNOWN_HOST = ""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLIENTS = frozenset({"curl", "wget"})
_FLAGS = frozenset("sSfLvikgIjqn")
_LONG_FLAGS = _words(
    "--silent --show-error --fail --location --verbose --include --insecure --head --compressed --globoff --quiet "
    "--no-progress-meter --no-check-certificate --fail-with-body"
)
_VALUED = _words(
    "-o --output -H --header -d --data --data-raw --data-binary --data-urlencode --json -X --request -u --user -A "
    "--user-agent -F --form -b --cookie -c --cookie-jar -w --write-out -m --max-time --connect-timeout --retry "
    "--retry-delay --output-document --timeout --tries --method --body-data"
)


def host_of(url: str) -> str:
    """The host that a URL names, with or without a scheme; `UNKNOWN_HOST` if readers could differ on it."""
    url = url.strip()
    if not url.isprintable() or " " in url or "\\" in url:
        return UNKNOWN_HOST
    try:
        host = urlsplit(url if "://" in url else f"//{url}").hostname
    except ValueError:
        return UNKNOWN_HOST
    return (host or UNKNOWN_HOST).rstrip(".").lower()


def hosts_of_command(command: Command) -> tuple[str, ...]:
    """The hosts that a command which uses the network contacts. Only what is plain to read of curl
    and wget is read; of anything else the host is unknown."""
    if command.name not in _CLIENTS or not all(word.is_resolved for word in command.words):
        return (UNKNOWN_HOST,)
    hosts = tuple(_hosts_of_client(command.texts))
    return hosts or (UNKNOWN_HOST,)


def _hosts_of_client(words: Sequence[str]) -> Iterator[str]:
    is_value = False
    for word in words:
        if is_value:
            is_value = False
        elif word in _VALUED:
            is_value = True
        elif not word.startswith("-"):
            yield host_of(word)
        elif not (word in _LONG_FLAGS or _FLAGS.issuperset(word[1:])):
            yield UNKNOWN_HOST
