"""`secrets`: redacts keys and tokens to `[redacted:<kind>]`.

A format without a mark of its own (a plain base64 text, say) is recognised only by the name before it.
"""

import math
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator

from luthien_litellm_hooks.policies.rewriting import ApplyTo, TextRewriting
from luthien_litellm_hooks.policies.rewriting.partial_match import (
    EDGE,
    NOTHING,
    GrowingRewriter,
    Part,
    Rule,
    any_case,
    maybe,
    plain,
    run,
    then,
)
from luthien_litellm_hooks.policies.rewriting.secret_formats import (
    ALNUM,
    API_KEY,
    BASE64,
    BEFORE,
    DIGIT,
    PADDED,
    PEM,
    PEM_IN_BASE64,
    PUTTY,
    TOKENS,
    URL_SAFE,
)
from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.patterns import Pattern, PatternText, compile_pattern


class SecretsConfig(PolicyConfig):
    """Settings of `secrets`."""

    apply_to: ApplyTo = "response"
    """`response`: words and calls of the model. `request`: words of people and tools, before the provider gets them.
    The model then does not see a file's real content at a secret, so an agent's edits of such a file may fail. Choose
    it only if secrets must not leave."""
    allow: tuple[PatternText, ...] = ()
    """Patterns (RE2) of texts that only look like secrets: one that matches as a whole stays. For example
    `AKIA[A-Z0-9]{9}EXAMPLE`, the keys in the vendor's manual."""
    assignments: bool = False
    """Also random-looking values after `password=`, `api_key:` and the like. It finds more, and is wrong more often."""


class Secrets(TextRewriting):
    """Redacts secrets of well-known formats in text, reasoning and the string values of tool arguments.

    A text is held only from the possible beginning of a secret; a private key until its end. A secret written
    backwards, in pieces or in another encoding is not recognised, except for a private key in base64.
    """

    Config = SecretsConfig

    def __init__(self, config: SecretsConfig | None = None) -> None:
        config = config or SecretsConfig()
        allowed = tuple(map(compile_pattern, config.allow))

        def redact(kind: str, secret: str) -> str:
            return secret if any(pattern.fullmatch(secret) for pattern in allowed) else f"[redacted:{kind}]"

        rules = tuple(secret_rules(redact, assignments=config.assignments))
        rewriter = GrowingRewriter(rules, reach=MAX_SECRET)
        super().__init__(rewriter, apply_to=config.apply_to, tool_arguments=True, reasoning=True)

    def reason(self, labels: Counter[str]) -> str:
        return "redacted " + ", ".join(f"{count} {kind}" for kind, count in sorted(labels.items()))


MAX_SECRET = 20_000
"""Characters of the longest secret: a private key of 16,384 bits has 13,000."""

# Webhooks: their address is the secret.
_SLACK_HOOK = plain("hooks.slack.com/services/", "hooks.slack.com/workflows/", "hooks.slack.com/triggers/")
_DISCORD_HOOK = then(
    plain("discord.com/api/", "discordapp.com/api/"),
    maybe(then(plain("v"), run(DIGIT, 1, 2), plain("/"))),
    plain("webhooks/"),
    run(DIGIT, 10, 20),
    plain("/"),
)

# RFC 3986: a name and a password before the host. A password may have an "@" of its own.
_URL_START = then(EDGE, plain("://"))
_URL_NAME = run(r"[^\s:/@?#\[\]\"'<>`\\]", 0)
_URL_PASSWORD = run(r"[^\s/\"'<>{}`\\]", 3)
_NO_PASSWORD = plain(":x-oauth-basic@", ":@")

_ASSIGN = then(
    run(r"""[\\"'\]]""", 0, 3),
    run("[ ]", 0, 2),
    plain("=", ":", ":=", "=>"),
    run("[ ]", 0, 2),
    run(r"""[\\"'`]""", 0, 2),
)
_AWS_SECRET_NAME = any_case(
    then(plain("aws_secret_access_key", "aws_secret_key", "secretaccesskey", "secret_access_key"), _ASSIGN)
)
_AWS_SESSION_NAME = any_case(then(plain("aws_session_token", "aws_security_token", "sessiontoken"), _ASSIGN))

# RFC 7617 and RFC 6750, and headers of the same purpose
_AUTHORIZATION = then(plain("authorization"), _ASSIGN)
_BASIC = any_case(then(_AUTHORIZATION, plain("basic ")))
_BEARER = any_case(then(_AUTHORIZATION, plain("bearer ", "token ", "bot ", "apikey ")))
_KEY_HEADERS = ("x-api-key", "x-auth-token", "x-access-token", "x-goog-api-key", "x-vault-token", "private-token")
_KEY_HEADER = any_case(then(EDGE, plain(*_KEY_HEADERS), _ASSIGN))
_TOKEN_VALUE = run("[A-Za-z0-9._~+/=-]", 16)
# Docker's config.json
_DOCKER_AUTH = plain('"auth": "', '"auth":"')

# Passwords that a client takes from its environment, its options or its files
_ENVIRONMENT = then(EDGE, plain("PGPASSWORD", "MYSQL_PWD", "SSHPASS", "REDISCLI_AUTH"), _ASSIGN)
_PASSWORD_VALUE = then(run(r"""[^\s"'`$(){}<>;&|\\]""", 1, 1), run(r"""[^\s"'`(){}<>;&|\\]""", 3))
_SSHPASS = then(EDGE, plain("sshpass -p"), run(r"""[ "']""", 0, 2))
_OPTIONS = ("password", "passwd", "passphrase", "token", "api-key", "access-token", "auth-token", "client-secret")
_OPTION = then(plain(*(f"--{name}" for name in _OPTIONS)), plain("=", " "), maybe(plain('"', "'")))
_USER_OPTION = then(plain("-u ", "--user "), maybe(plain('"', "'")), run(r"""[^\s:"'$]""", 1), plain(":"))
_ODBC = any_case(then(plain(";"), run("[ ]", 0, 1), plain("password", "pwd"), run("[ ]", 0, 1), plain("=")))
_NETRC = then(
    EDGE,
    plain("machine "),
    *(run(r"\S", 1), run(r"\s", 1), plain("login "), run(r"\S", 1), run(r"\s", 1), plain("password ")),
)

_PASSWORDS = ("password", "passwd", "pwd", "passphrase", "secret", "token", "auth_key", "private_key")
_KEYS = ("api_key", "api-key", "apikey", "access_key", "access-key", "accesskey", "secret_key", "secretkey")
_SECRET_NAMES = any_case(then(plain(*_PASSWORDS, *_KEYS), _ASSIGN))
_SECRET_VALUE = run(r"[A-Za-z0-9_.~+/=!@#%^&*-]", 12, 200)
_MIN_ENTROPY = 3.0  # bits a character; 99 of 100 random texts of 12 letters and digits have more


def secret_rules(redact: Callable[[str, str], str], *, assignments: bool) -> Iterator[Rule]:
    """Yields the rules for secrets. `redact` takes the kind and the secret, and returns the replacement.

    With `assignments` they include random-looking values after `password=` and the like.
    """

    def rule(
        kind: str,
        part: Part,
        before: Part = NOTHING,
        after: Part = NOTHING,
        *,
        is_secret: Callable[[str], bool] | None = None,
        may_follow: Callable[[str], bool] | None = None,
    ) -> Rule:
        def change(text: str) -> str:
            return redact(kind, text) if is_secret is None or is_secret(text) else text

        return Rule(kind, part, change, before, after, may_follow)

    yield rule("private_key", PEM)
    yield rule("private_key", PEM_IN_BASE64, BEFORE)
    yield rule("private_key", PUTTY, then(plain("Private-Lines: "), run(DIGIT, 1, 3)))
    yield from (rule(kind, part, BEFORE) for kind, part in TOKENS)
    # Keys of OpenAI and of proxies with its format. Some names of branches and in style sheets begin like them.
    yield rule("api_key", API_KEY, BEFORE, is_secret=_is_no_name)
    # Beginnings that are found in pictures, too
    yield rule("square_token", then(plain("EAAA"), run(URL_SAFE, 22, 70)), BEFORE, is_secret=_is_mixed)
    yield rule("clickhouse_key", then(plain("4b1d"), run(ALNUM, 38, 38), EDGE), BEFORE, is_secret=_is_mixed)
    # Short beginnings, or short tokens
    yield rule("vault_token", then(plain("s."), run(ALNUM, 24, 24), EDGE), BEFORE, is_secret=_is_scattered)
    yield rule("slack_token", then(plain("xoxa-", "xoxr-"), run("[A-Za-z0-9-]", 8)), BEFORE, is_secret=_is_scattered)
    # Marks inside of tokens
    yield rule("telegram_token", then(plain(":AA"), run(URL_SAFE, 33, 33), EDGE), EDGE, may_follow=_ends_with_digits)
    yield rule("terraform_token", then(plain(".atlasv1."), run("[A-Za-z0-9_=-]", 60)), EDGE)
    yield rule("azure_secret", then(plain("Q~"), run("[A-Za-z0-9_~.-]", 31, 34)), may_follow=_ends_like_azure)
    yield rule("google_key", then(plain(":APA91b"), run(URL_SAFE, 100)), EDGE)
    yield rule(
        "service_token",
        run(ALNUM, 24),
        plain("_live_", "_secret_", "_pat_", "_tkn_", "_oauth_"),
        is_secret=_is_random,
        may_follow=_is_not_public,
    )

    yield rule("slack_webhook", run("[A-Za-z0-9+/_-]", 40), _SLACK_HOOK, is_secret=_is_no_placeholder)
    yield rule("discord_webhook", run(URL_SAFE, 60), _DISCORD_HOOK, is_secret=_is_no_placeholder)
    yield rule("teams_webhook", run("[A-Za-z0-9@/-]", 70), plain(".webhook.office.com/webhookb2/"))
    yield rule("url_token", run(r"[A-Za-z0-9_.~-]", 16), _URL_START, _NO_PASSWORD)
    yield rule(
        "url_password",
        _URL_PASSWORD,
        then(_URL_START, _URL_NAME, plain(":")),
        plain("@"),
        is_secret=_is_password,
        may_follow=_is_no_image,
    )

    yield rule("aws_secret_key", run(BASE64, 40, 40), _AWS_SECRET_NAME)
    yield rule("aws_session_token", run(PADDED, 100), _AWS_SESSION_NAME)
    # Azure: connection strings of storage accounts, of buses and hubs
    yield rule("azure_storage_key", then(run(BASE64, 86, 86), plain("==")), plain("AccountKey="))
    yield rule("azure_access_key", then(run(BASE64, 43, 43), plain("=")), plain("SharedAccessKey="))
    yield rule("gitlab_session", run(ALNUM, 32), plain("_gitlab_session="))
    yield rule("npm_token", run("[A-Za-z0-9+/=_.-]", 16), plain(":_authToken=", ":_password="))
    yield rule("authorization", run(PADDED, 8), _BASIC, is_secret=_is_basic)
    yield rule("authorization", run(PADDED, 8), _DOCKER_AUTH, is_secret=_is_basic)
    yield rule("authorization", _TOKEN_VALUE, _BEARER, is_secret=_is_random_and_unknown)
    yield rule("authorization", _TOKEN_VALUE, _KEY_HEADER, is_secret=_is_random_and_unknown)
    yield rule("password", _PASSWORD_VALUE, _ENVIRONMENT, is_secret=_is_own_password)
    yield rule("password", _PASSWORD_VALUE, _SSHPASS, is_secret=_is_own_password)
    yield rule("password", _PASSWORD_VALUE, _ODBC, is_secret=_is_own_password)
    yield rule("password", _PASSWORD_VALUE, _NETRC, is_secret=_is_own_password)
    yield rule("password", run("[A-Za-z0-9_.~+=!@#%^*-]", 8), _OPTION, is_secret=_is_odd)
    yield rule("password", run("[A-Za-z0-9_.~+=!@#%^*-]", 8), _USER_OPTION, is_secret=_is_odd)
    if assignments:
        yield rule("assigned_secret", _SECRET_VALUE, _SECRET_NAMES, is_secret=_is_random)


_NAME = re.compile(r"[A-Za-z]*\d*")


def _is_no_name(key: str) -> bool:
    """Tells if more of `key` than a short hash is random: `sk-1042-fix-login-a1b2c3d` is a branch."""
    odd = [piece for piece in re.split("[-_]", key[3:]) if not _NAME.fullmatch(piece)]
    return any(map(str.isdigit, key)) and sum(map(len, odd)) >= 12


def _is_mixed(key: str) -> bool:
    return "AAAA" not in key[3:] and all(any(map(test, key)) for test in (str.isdigit, str.isupper, str.islower))


def _is_scattered(secret: str) -> bool:
    """Tells if `secret` has digits at several places, unlike a name."""
    return len(re.findall(r"\d+", secret)) > 1


def _is_random(secret: str) -> bool:
    return any(map(str.isdigit, secret)) and _entropy(secret) >= _MIN_ENTROPY


def _is_odd(secret: str) -> bool:
    """Tells if a password has letters, digits, and more than a word with a number."""
    is_mixed = any(map(str.isdigit, secret)) and any(map(str.isalpha, secret))
    return is_mixed and _is_unknown(secret) and not all(_NAME.fullmatch(piece) for piece in re.split(r"[-_.=]", secret))


_KNOWN = Pattern("|".join(part.whole for _, part in (*TOKENS, ("", API_KEY))), is_large=True)


def _is_unknown(text: str) -> bool:
    """Tells if `text` begins with none of the tokens that have a kind of their own."""
    return _KNOWN.match(text, 0, len(text)) is None


def _is_random_and_unknown(secret: str) -> bool:
    return _is_random(secret) and _is_unknown(secret)


def _is_no_placeholder(secret: str) -> bool:
    return "XXXXXX" not in secret.upper()


_STANDS_FOR_ONE = re.compile(r"[*.xX_%-]+|\$\w+|%\w+%?|\d{1,5}[?#,;&)\]|].*|\[redacted:\w+\]", re.DOTALL)
_NO_SECRETS = ("password", "passwd", "postgres", "changeme", "example", "secret", "root", "test")


def _is_password(secret: str) -> bool:
    """Tells if `secret` is neither a mask, a variable, nor a port with what follows it."""
    return _STANDS_FOR_ONE.fullmatch(secret) is None


def _is_own_password(secret: str) -> bool:
    return secret.lower() not in _NO_SECRETS and _is_password(secret) and _is_unknown(secret)


def _is_basic(text: str) -> bool:
    """Tells if `text` is a name and a password in base64, as of RFC 7617."""
    try:
        decoded = b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except ValueError:
        return False
    return ":" in decoded[:-1] and decoded.isprintable()


def _ends_with_digits(before: str) -> bool:
    return before[-8:].isdigit() and len(before) >= 8


def _ends_like_azure(before: str) -> bool:
    return re.search(r"[A-Za-z0-9_~.]{3}[0-9]\Z", before) is not None


def _is_not_public(before: str) -> bool:
    """Tells if no mark of publishable keys ends `before`: Stripe's begin with `pk_live_`."""
    return not before.endswith(("pk", "pub", "public", "publishable"))


def _is_no_image(before: str) -> bool:
    """Tells if no scheme of container images ends `before`: their tag stands before an "@"."""
    return not before.endswith(("docker", "docker-daemon", "oci", "containers-storage"))


def _entropy(text: str) -> float:
    """Returns Shannon's entropy, in bits a character."""
    shares = (count / len(text) for count in Counter(text).values())
    return -sum(share * math.log2(share) for share in shares)
