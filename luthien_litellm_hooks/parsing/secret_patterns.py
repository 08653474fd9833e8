"""What keys and tokens look like, as those who issue them say or write them.

A length is a minimum where newer tokens may be longer. A format that
has no mark of its own (a plain base64 text, say) is known by the name before it, or not at all.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator

from luthien_litellm_hooks.parsing.growing import EDGE, NOTHING, Part, Rule, any_case, either, maybe, plain, run, then

MAX_SECRET = 20_000
"""Characters of the longest secret: a private key of 16,384 bits has 13,000."""

_HEX = "[0-9a-f]"
_ALNUM = "[A-Za-z0-9]"
_WORD = "[A-Za-z0-9_]"
_URL_SAFE = "[A-Za-z0-9_-]"
_BASE64 = "[A-Za-z0-9+/]"


def _at_least(characters: str, length: int) -> Part:
    """`length` of `characters`, and whatever directly goes on after them: of a token that is longer than is
    known here nothing must stay. Five dashes do not go on: they begin a private key."""
    return Part(f"{characters}{{{length}}}(?:-{{0,4}}{_WORD})*", f"{_URL_SAFE}*")


_PEM_LABELS = plain(
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "DSA PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "PGP PRIVATE KEY BLOCK",
)
# RFC 7468 and RFC 4880. The key may stand in code: in quotes, with escapes for the ends of its lines.
# Without its end it goes on to the next five dashes. Prose that names the first line is no key.
_PRIVATE_KEY = then(
    plain("-----BEGIN "),
    _PEM_LABELS,
    plain("-----"),
    run(r"""[\s\\nr"'+,|>]""", 0, 30),
    either(run("[A-Za-z0-9+/=]", 16, 16), plain("Proc-Type:", "DEK-Info:", "Version:", "Comment:")),
    Part("(?:[^-]|-{1,4}[^-])*", "(?:[^-]|-{1,4}[^-])*-{0,4}"),
    maybe(then(plain("-----END "), _PEM_LABELS, plain("-----"))),
)

_ASSIGN = then(maybe(plain('"', "'")), run("[ ]", 0, 2), plain("=", ":"), run("[ ]", 0, 2), maybe(plain('"', "'")))

_TOKENS: tuple[tuple[str, Part], ...] = (
    # The IAM user guide, "Unique identifiers"
    ("aws_access_key", then(plain("AKIA", "ASIA"), run("[A-Z0-9]", 16, 16), EDGE)),
    # "Behind GitHub's new authentication token formats", GitHub's blog, 2021
    ("github_token", then(plain("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), run(_WORD, 36))),
    # GitLab's documentation, "Token prefixes"
    (
        "gitlab_token",
        then(
            plain("glpat-", "gloas-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "glsoat-"),
            run("[A-Za-z0-9_.-]", 20),
        ),
    ),
    # Slack's documentation, "Tokens"
    (
        "slack_token",
        then(plain("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xapp-"), run("[A-Za-z0-9-]", 20)),
    ),
    # Stripe's documentation: secret and restricted keys of live mode, webhook secrets
    ("stripe_key", then(plain("sk_live_", "rk_live_", "whsec_"), _at_least(_ALNUM, 24))),
    # Anthropic: API and admin keys
    ("anthropic_key", then(plain("sk-ant-"), run(_URL_SAFE, 20))),
    # Google: API keys, OAuth access tokens, OAuth client secrets
    ("google_key", then(plain("AIza"), _at_least(_URL_SAFE, 35))),
    ("google_oauth_token", then(plain("ya29."), run(_URL_SAFE, 30))),
    ("google_oauth_secret", then(plain("GOCSPX-"), _at_least(_URL_SAFE, 28))),
    # npm: granular access tokens
    ("npm_token", then(plain("npm_"), run(_ALNUM, 36))),
    # The help page of PyPI, "How can I use API tokens": a macaroon whose first field is the host
    ("pypi_token", then(plain("pypi-AgEIcHlwaS5vcmc", "pypi-AgENdGVzdC5weXBpLm9yZw"), run(_URL_SAFE, 50))),
    # SendGrid: an id and a secret
    ("sendgrid_key", then(plain("SG."), run(_URL_SAFE, 16, 32), plain("."), run(_URL_SAFE, 32, 64))),
    # Twilio: the SID of an API key
    ("twilio_key", then(plain("SK"), run(_HEX, 32, 32), EDGE)),
    # Hugging Face: user access tokens
    ("huggingface_token", then(plain("hf_"), run(_ALNUM, 30))),
    # DigitalOcean: personal, OAuth and refresh tokens
    ("digitalocean_token", then(plain("dop_v1_", "doo_v1_", "dor_v1_"), run(_HEX, 64, 64))),
    # shopify.dev/changelog/length-of-the-shopify-access-token-is-increasing; `shpss_` is an app's secret
    ("shopify_token", then(plain("shpat_", "shpca_", "shppa_", "shpss_"), run("[0-9a-fA-F]", 32))),
    # Databricks: personal access tokens
    ("databricks_token", then(plain("dapi"), run(_HEX, 32, 32))),
    # Vault: service, batch and recovery tokens
    ("vault_token", then(plain("hvs.", "hvb.", "hvr."), run(_URL_SAFE, 24))),
    # Groq
    ("groq_key", then(plain("gsk_"), run(_ALNUM, 40))),
    # age-encryption.org/v1
    ("age_key", then(plain("AGE-SECRET-KEY-1"), run("[A-Z0-9]", 58, 58))),
    # RFC 7519: two base64url objects, each beginning with `{"`, and a signature
    (
        "jwt",
        then(plain("eyJ"), run(_URL_SAFE, 8), plain(".eyJ"), run(_URL_SAFE, 8), plain("."), run(_URL_SAFE, 16)),
    ),
)

_NET_SCHEMES = ("http", "https", "ftp", "ssh", "git", "git+https", "smtp", "smtps", "ldap", "ldaps")
_SQL_SCHEMES = ("postgres", "postgresql", "mysql", "mariadb", "clickhouse")
_STORE_SCHEMES = ("mongodb", "mongodb+srv", "redis", "rediss", "amqp", "amqps", "nats")
# RFC 3986: a name and a password before the host.
_URL_START = then(
    EDGE,
    plain(*_NET_SCHEMES, *_SQL_SCHEMES, *_STORE_SCHEMES),
    plain("://"),
    run(r"[^\s:/@\"'<>`]", 0, 100),
    plain(":"),
)
_URL_PASSWORD = run(r"[^\s/@\"'<>{}$`]", 3, 200)

_AWS_SECRET_NAME = any_case(
    then(plain("aws_secret_access_key", "aws_secret_key", "secretaccesskey", "secret_access_key"), _ASSIGN)
)
_PASSWORDS = ("password", "passwd", "pwd", "passphrase", "secret", "token", "auth_key", "private_key")
_KEYS = ("api_key", "api-key", "apikey", "access_key", "access-key", "accesskey", "secret_key", "secretkey")
_SECRET_NAMES = any_case(then(plain(*_PASSWORDS, *_KEYS), _ASSIGN))
_SECRET_VALUE = run(r"[A-Za-z0-9_.~+/=!@#%^&*-]", 12, 200)
_MIN_ENTROPY = 3.0  # bits a character: of random texts of 12 letters and digits, 99 in 100 have more


def secret_rules(redact: Callable[[str, str], str], *, assignments: bool) -> Iterator[Rule]:
    """The rules that find secrets. `redact` is given the kind and the secret, and returns what to
    write for it. With `assignments` also what looks random after `password=` and the like."""

    def rule(kind: str, part: Part, before: Part, after: Part = NOTHING) -> Rule:
        return Rule(kind, part, lambda secret: redact(kind, secret), before, after)

    yield rule("private_key", _PRIVATE_KEY, NOTHING)
    yield from (rule(kind, part, EDGE) for kind, part in _TOKENS)
    # OpenAI's, and those of proxies that write theirs like it; many a name of a style sheet begins so too.
    yield Rule("api_key", then(plain("sk-"), run(_URL_SAFE, 20)), _if_mixed(redact), EDGE)
    yield rule("url_password", _URL_PASSWORD, _URL_START, plain("@"))
    yield rule("aws_secret_key", run(_BASE64, 40, 40), _AWS_SECRET_NAME)
    # Azure: connection strings of storage accounts
    yield rule("azure_storage_key", then(run(_BASE64, 86, 86), plain("==")), plain("AccountKey="))
    if assignments:
        yield Rule("assigned_secret", _SECRET_VALUE, _if_random(redact), _SECRET_NAMES)


def _if_mixed(redact: Callable[[str, str], str]) -> Callable[[str], str]:
    def change(secret: str) -> str:
        is_mixed = any(map(str.isdigit, secret)) and any(map(str.isalpha, secret[3:]))
        return redact("api_key", secret) if is_mixed else secret

    return change


def _if_random(redact: Callable[[str, str], str]) -> Callable[[str], str]:
    def change(secret: str) -> str:
        is_random = any(map(str.isdigit, secret)) and _entropy(secret) >= _MIN_ENTROPY
        return redact("assigned_secret", secret) if is_random else secret

    return change


def _entropy(text: str) -> float:
    """Shannon's, in bits a character."""
    shares = (count / len(text) for count in Counter(text).values())
    return -sum(share * math.log2(share) for share in shares)
