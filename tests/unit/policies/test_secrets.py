"""Secrets: each known format is redacted wherever it stands and however it is cut; look-alikes are not."""

import json
import random
import re
import string
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthien_litellm_hooks import ConfigError, Policy, PolicyExecutor
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.policies.regex_replacement import RegexReplacement, RegexReplacementConfig
from luthien_litellm_hooks.policies.rewriting import apply_edits, edits_of, finalise
from luthien_litellm_hooks.policies.rewriting.partial_match import GrowingRewriter
from luthien_litellm_hooks.policies.secrets import MAX_SECRET, Secrets, SecretsConfig, secret_rules
from luthien_litellm_hooks.policies.string_replacement import StringReplacement, StringReplacementConfig
from tests.support import messages
from tests.support.chat import (
    Delivered,
    call,
    context,
    deliver,
    deliver_full,
    finish,
    full,
    text,
    think,
)
from tests.unit.policies.test_text_policies import held_while_streaming, pieces, spans_of


def made(length: int, characters: str = string.ascii_letters + string.digits) -> str:
    """Random characters, always the same."""
    return "".join(random.Random(length).choices(characters, k=length))


HEX = "0123456789abcdef"
CAPITALS = string.ascii_uppercase + string.digits
UUID = "-".join(made(length, HEX) for length in (8, 4, 4, 4, 12))
BODY = "\n".join(made(64, string.ascii_letters + "+/") for _ in range(25))
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"
JWT = f"eyJ{made(30)}.eyJ{made(80)}.{made(43)}"
PUTTY = f"\n{BODY}\nPrivate-MAC: {made(40, HEX)}"

SECRETS: dict[str, list[str]] = {
    "private_key": [
        PEM,
        PEM.replace("RSA ", ""),
        PEM.replace("RSA", "OPENSSH"),
        PEM.replace("\n", "\\n"),
        PEM.replace("\n", "\n\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\n", 1),
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n" + BODY + "\n-----END PGP PRIVATE KEY BLOCK-----",
        *(b64encode(PEM.replace("RSA ", label).encode()).decode() for label in ("", "RSA ", "EC ", "OPENSSH ")),
    ],
    "aws_access_key": ["AKIAIOSFODNN7EXAMPLE", "ASIA" + made(16, string.ascii_uppercase)],
    "aws_bedrock_key": ["ABSK" + made(120), "bedrock-api-key-" + made(28)],
    "github_token": [f"gh{kind}_{made(36)}" for kind in "pousr"] + ["github_pat_" + made(82), f"ghs_12345_{JWT}"],
    "gitlab_token": ["glpat-" + made(20), "glrt-t1_" + made(20), "glffct-" + made(20), "GR1348941" + made(20)],
    "slack_token": ["xoxa-2-a1b2c3d4", f"xoxb-{made(12, string.digits)}-{made(24)}", f"xapp-1-{made(40)}"],
    "stripe_key": ["sk_live_" + made(24), "rk_live_" + made(99), "whsec_" + made(32)],
    "anthropic_key": [f"sk-ant-api03-{made(93)}-{made(6)}AA"],
    "google_key": ["AIza" + made(35)],
    "google_oauth_token": ["ya29." + made(60), "1//0" + made(90)],
    "google_oauth_secret": ["GOCSPX-" + made(28)],
    "npm_token": ["npm_" + made(36)],
    "pypi_token": ["pypi-AgEIcHlwaS5vcmc" + made(120)],
    "sendgrid_key": [f"SG.{made(22)}.{made(43)}"],
    "twilio_key": ["SK" + made(32, HEX)],
    "huggingface_token": ["hf_" + made(34), "api_org_" + made(34)],
    "digitalocean_token": ["dop_v1_" + made(64, HEX)],
    "shopify_token": ["shpat_" + made(32, HEX)],
    "databricks_token": ["dapi" + made(32, HEX), f"dapi{made(32, HEX).upper()}-3"],
    "vault_token": ["hvs." + made(90), "s." + made(24)],
    "groq_key": ["gsk_" + made(52)],
    "age_key": ["AGE-SECRET-KEY-1" + made(58, string.ascii_uppercase + string.digits)],
    "jwt": [JWT],
    "1password_token": ["ops_eyJ" + made(300)],
    "airtable_token": [f"pat{made(14)}.{made(64, HEX)}"],
    "alibaba_key": ["LTAI" + made(20)],
    "atlassian_token": [f"ATATT3xFfGF0{made(170)}={made(8, HEX).upper()}"],
    "brevo_key": [f"xkeysib-{made(64, HEX)}-{made(16)}"],
    "circleci_token": [f"CCIPAT_{made(22)}_{made(40, HEX)}"],
    "cloudflare_token": ["cfut_" + made(48), f"v1.0-{made(24, HEX)}-{made(146, HEX)}"],
    "contentful_token": ["CFPAT-" + made(43)],
    "discord_token": [f"MTE{made(23)}.G{made(5)}.{made(38)}"],
    "docker_token": ["dckr_pat_" + made(27)],
    "doppler_token": ["dp.pt." + made(43), "dp.st.dev." + made(43)],
    "dynatrace_token": [f"dt0c01.{made(24, CAPITALS)}.{made(64, CAPITALS)}"],
    "figma_token": ["figd_" + made(40)],
    "fly_token": ["fm2_" + made(120)],
    "grafana_token": [f"glsa_{made(32)}_{made(8, HEX)}", "glc_eyJ" + made(80), "eyJrIjoi" + made(80)],
    "heroku_token": ["HRKU-AA" + made(58)],
    "hubspot_token": [f"pat-na1-{UUID}"],
    "langsmith_key": [f"lsv2_pt_{made(32, HEX)}_{made(10, HEX)}"],
    "linear_token": ["lin_api_" + made(40)],
    "mailgun_key": ["key-" + made(32, HEX)],
    "netlify_token": ["nfp_" + made(36)],
    "new_relic_key": ["NRAK-" + made(27, CAPITALS)],
    "notion_token": [f"ntn_{made(11, string.digits)}{made(35)}"],
    "nvidia_key": ["nvapi-" + made(64)],
    "perplexity_key": ["pplx-" + made(48)],
    "pinecone_key": [f"pcsk_{made(6)}_{made(62)}"],
    "plaid_token": [f"access-production-{UUID}"],
    "planetscale_token": ["pscale_tkn_" + made(43)],
    "postman_key": [f"PMAK-{made(24, HEX)}-{made(34, HEX)}"],
    "pulumi_token": ["pul-" + made(40, HEX)],
    "replicate_token": ["r8_" + made(37)],
    "resend_key": [f"re_{made(8)}_{made(24)}"],
    "rubygems_key": ["rubygems_" + made(48, HEX)],
    "sentry_token": ["sntryu_" + made(64, HEX), f"sntrys_eyJ{made(80)}_{made(43)}"],
    "square_token": ["sq0atp-" + made(22), "EAAA" + made(60)],
    "supabase_token": ["sbp_" + made(40, HEX), "sb_secret_" + made(31)],
    "tailscale_key": [f"tskey-auth-{made(16)}-{made(32)}"],
    "typeform_token": ["tfp_" + made(59)],
    "xai_key": ["xai-" + made(80)],
    "api_key": ["sk-proj-" + made(120), "sk-" + made(48), "sk-or-v1-" + made(64, HEX)],
}
ALL = [(kind, secret) for kind, secrets in SECRETS.items() for secret in secrets]

INNOCENT = [
    "The header is `-----BEGIN RSA PRIVATE KEY-----`, then base64, then `-----END RSA PRIVATE KEY-----`.",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "AKIA is how it begins; AKIAIOSFODNN7EXAMPLEX is too long, AKIAIOSFODNN7 too short",
    "ghp_short, xghp_" + made(36),
    "class sk-folding-cube-animation-container and sk-1234",
    "git switch sk-1042-fix-login-redirect-2 && git merge sk-77-add-OAuth2-for-users-a1b2c3d",
    "#sk-item2-column13-Left-wide10 { color: red }",
    "other patches, patience, and MTU.Gtable; pat-na1-region, re_compile, key-value, secret_key, API-Reference",
    "http://localhost:3000?email=a@b.c http://localhost:3000/?email=a@b.c http://[::1]:3000?email=a@b.c",
    "https://a.example:8443#x@y docker://alpine:3.12@sha256:9f86d081884c7d659a2feaa0c55ad015",
    "postgresql://postgres:***@db/x mysql://root:xxxxx@db redis://u:$PASSWORD@h amqp://u:%PASS%@h",
    "smtp://u:[redacted:url_password]@h https://:@h https://user:x@h",
    "-----BEGIN PRIVATE KEY----- in src/main.py, commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b, by a@b.c",
    "`-----BEGIN RSA PRIVATE KEY-----\\n` + pem + `\\n-----END RSA PRIVATE KEY-----`",
    "Private-Lines: 8 stands before them; Private-Lines: %d",
    "Authorization: Bearer $TOKEN, Authorization: Bearer {token}, Authorization: Basic <base64>",
    "authorization: Bearer YOUR_ACCESS_TOKEN; -H 'Authorization: token TOKEN'; authorization: basic authentication",
    "x-api-key: process.env.API_KEY; 'PRIVATE-TOKEN: <your_access_token>'",
    'PGPASSWORD="$POSTGRES_PASSWORD" PGPASSWORD=$(cat pw) PGPASSWORD=postgres MYSQL_PWD=',
    "--password password, --password path/to/file, --token-ttl 24h0m0s, --password-stdin, --token $T",
    "docker run -u 1000:1000 --user user:group; curl -u user:password",
    "hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
    "https://hooks.slack.com/services/T/B/X and https://discord.com/api/webhooks/1/x",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA/EAAAAAAAAAAAAAAAAAAAAAAAAAA+SKAAAA/AKIA+eyJ/pat",
    '"integrity": "sha512-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08=="',
    "pk_live_06df05371981a237d0ed1147, acme_public_live_06df05371981a237d0ed1147",
    "s.base64EncodedStringValue, s.aVeryLongCamelCaseMethod, xoxa-your-token-here",
    "machine learning, the machine a login b, cache_key_9f86d081884c7d659a2feaa0c55ad015",
    "task-sk_live_ and npm_config_registry, hf_hub_download, SKIP, SG.com",
    "https://user@example.com/a:b@c http://localhost:8080/x@y postgres://localhost:5432/db",
    "postgres://app:${DB_PASSWORD}@db/x",
    "eyJhbGciOiJIUzI1NiJ9 alone, and eyJ.eyJ.x",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "token count: 512, password = os.environ['PASSWORD'], api_key=None",
]


async def read(policy: Policy, *texts: str) -> str:
    return Delivered.of(await deliver(policy, pieces(*texts))).text


@pytest.mark.parametrize(("kind", "secret"), ALL, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(ALL)])
async def test_a_secret_is_redacted_however_the_stream_cuts_it(kind: str, secret: str) -> None:
    came, left = f"Use {secret} (it is mine).", f"Use [redacted:{kind}] (it is mine)."
    for size in (1 if len(came) < 200 else 3, 7, 60, len(came)):
        assert await read(Secrets(), *spans_of(came, [size])) == left
    response = await deliver_full(Secrets(), full({"content": came}))
    assert response.choices[0].message.content == left


@pytest.mark.parametrize("kind", ["stripe_key", "google_key", "google_oauth_secret"])
@pytest.mark.parametrize("tail", ["-l10krOej5B5VB2u5", "_x", "--x-1", "AjVJ4NvLtVro"])
async def test_what_directly_goes_on_after_a_token_is_redacted_with_it(kind: str, tail: str) -> None:
    secret = SECRETS[kind][0]
    for size in (1, 7, 200):
        assert (
            await read(Secrets(), *spans_of(f"Use {secret}{tail} (mine).", [size])) == f"Use [redacted:{kind}] (mine)."
        )
        told = await read(Secrets(), *spans_of(f"{secret}{PEM}\n", [size]))
        assert told == f"[redacted:{kind}][redacted:private_key]\n"


@pytest.mark.parametrize("innocent", INNOCENT)
async def test_what_only_looks_like_a_secret_is_left_alone(innocent: str) -> None:
    for size in (1, 5, len(innocent)):
        assert await read(Secrets(), *spans_of(innocent, [size])) == innocent
    response = full({"content": innocent})
    assert await deliver_full(Secrets(), response) is response


@pytest.mark.parametrize(
    ("came", "left"),
    [
        ("postgres://app:hunter22@db:5432/x", "postgres://app:[redacted:url_password]@db:5432/x"),
        ("git+https://x:tok3n@host/a.git", "git+https://x:[redacted:url_password]@host/a.git"),
        ("AWS_SECRET_ACCESS_KEY=" + made(40) + "\n", "AWS_SECRET_ACCESS_KEY=[redacted:aws_secret_key]\n"),
        ('"SecretAccessKey": "' + made(40) + '"', '"SecretAccessKey": "[redacted:aws_secret_key]"'),
        ("AccountKey=" + made(86) + "==;", "AccountKey=[redacted:azure_storage_key];"),
        ("SharedAccessKey=" + made(43) + "=;", "SharedAccessKey=[redacted:azure_access_key];"),
        (f"https://{made(40)}:x-oauth-basic@git.example/a", "https://[redacted:url_token]:x-oauth-basic@git.example/a"),
        (f"curl https://{made(40)}:@api.example/a", "curl https://[redacted:url_token]:@api.example/a"),
        ("postgresql+asyncpg://user:pw1@db/x", "postgresql+asyncpg://user:[redacted:url_password]@db/x"),
        ("jdbc:mysql+srv://a.b:p$ss$1@db/x", "jdbc:mysql+srv://a.b:[redacted:url_password]@db/x"),
        ("socks5h://u:pa?s#s@proxy:1080", "socks5h://u:[redacted:url_password]@proxy:1080"),
        ("mssql://sa:P@ssw0rd!@db;", "mssql://sa:[redacted:url_password]@db;"),
        ("redis://:s3cret@h:6379/0, x@y.z", "redis://:[redacted:url_password]@h:6379/0, x@y.z"),
        ("ftps://admin:password@h/f", "ftps://admin:[redacted:url_password]@h/f"),
        (f"1234567890:AA{made(33)}\n", "1234567890[redacted:telegram_token]\n"),
        (f"{made(14)}.atlasv1.{made(67)}\n", f"{made(14)}[redacted:terraform_token]\n"),
        (f"'abc8Q~{made(34)}'", "'abc8[redacted:azure_secret]'"),
        (f"acme_live_{made(32)} ", "acme_live_[redacted:service_token] "),
        (f"TOKEN=\\nghp_{made(36)}\\n", "TOKEN=\\n[redacted:github_token]\\n"),
        (
            f"https://hooks.slack.com/services/T{made(8, CAPITALS)}/B{made(10, CAPITALS)}/{made(24)} ",
            "https://hooks.slack.com/services/[redacted:slack_webhook] ",
        ),
        (
            f"https://canary.discord.com/api/v10/webhooks/{made(18, string.digits)}/{made(68)} ",
            f"https://canary.discord.com/api/v10/webhooks/{made(18, string.digits)}/[redacted:discord_webhook] ",
        ),
        (f"//registry.example/:_authToken={UUID}\n", "//registry.example/:_authToken=[redacted:npm_token]\n"),
        ("-H 'Authorization: Basic dXNlcjpodW50ZXI='", "-H 'Authorization: Basic [redacted:authorization]'"),
        (f'{{"Authorization": "Bearer {made(40)}"}}', '{"Authorization": "Bearer [redacted:authorization]"}'),
        (
            f'{{\\"authorization\\": \\"token {made(40)}\\"}}',
            '{\\"authorization\\": \\"token [redacted:authorization]\\"}',
        ),
        (f"PRIVATE-TOKEN: {made(20)}\n", "PRIVATE-TOKEN: [redacted:authorization]\n"),
        ('{"auth": "dXNlcjpodW50ZXI="}', '{"auth": "[redacted:authorization]"}'),
        ("PGPASSWORD=hunter psql -h db", "PGPASSWORD=[redacted:password] psql -h db"),
        ("  MYSQL_PWD: 'hunter2'", "  MYSQL_PWD: '[redacted:password]'"),
        ("sshpass -p hunter2 ssh h", "sshpass -p [redacted:password] ssh h"),
        ("mysql --password=tr0ub4dor&3 x", "mysql --password=[redacted:password]&3 x"),
        ("x login --token 8fk2mmq93kd0 --y", "x login --token [redacted:password] --y"),
        ("curl -u admin:tr0ub4dor! https://h", "curl -u admin:[redacted:password] https://h"),
        ("Server=db;User Id=sa;Password=Hunt&r;x=1", "Server=db;User Id=sa;Password=[redacted:password]&r;x=1"),
        (
            "machine h.example login bob\n password hunter2\n",
            "machine h.example login bob\n password [redacted:password]\n",
        ),
        (f"Authorization: Bearer hf_{'aBcDe' * 7}\n", "Authorization: Bearer [redacted:huggingface_token]\n"),
        (f"gh auth --token ghp_{made(36)} x", "gh auth --token [redacted:github_token] x"),
        (f"http://h:80?t=ghp_{made(36)}&m=a@b.c", "http://h:80?t=[redacted:github_token]&m=a@b.c"),
        (f'export AWS_SESSION_TOKEN="{made(300)}"', 'export AWS_SESSION_TOKEN="[redacted:aws_session_token]"'),
        ("Private-Lines: 14" + PUTTY + "\nend", "Private-Lines: 14[redacted:private_key]\nend"),
    ],
)
async def test_of_a_secret_that_its_place_gives_away_only_the_secret_is_redacted(came: str, left: str) -> None:
    for size in (1, 6, len(came)):
        assert await read(Secrets(), *spans_of(came, [size])) == left


@pytest.mark.parametrize(
    ("came", "left"),
    [
        (f'db_password = "{made(16)}"', 'db_password = "[redacted:assigned_secret]"'),
        (f"API-KEY: {made(32)}", "API-KEY: [redacted:assigned_secret]"),
        ('password = "correct horse"', 'password = "correct horse"'),
        ("password=aaaaaaaaaaaa1111", "password=aaaaaaaaaaaa1111"),
        ("secret=os.environ.get", "secret=os.environ.get"),
    ],
)
async def test_what_looks_random_after_a_name_is_redacted_if_asked(came: str, left: str) -> None:
    for size in (1, 6, len(came)):
        assert await read(Secrets(SecretsConfig(assignments=True)), *spans_of(came, [size])) == left
    assert await read(Secrets(), came) == came


PREFIXES: dict[str, Callable[[int], str]] = {
    "cat -n": lambda number: f"{number:6}\t",
    "arrow": lambda number: f"{number:6}\u2192",
    "grep -n": lambda number: f"{number}:",
    "grep -n in files": lambda number: f"deploy/keys/server-1.pem:{number}:",
    "grep -A": lambda number: f"deploy/keys/server-1.pem-{number}-",
    "added": lambda _: "+",
    "removed": lambda _: "-",
    "shell comment": lambda _: "# ",
    "line comment": lambda _: "    // ",
    "block comment": lambda _: " * ",
    "SQL comment": lambda _: "-- ",
    "citation": lambda _: "> > ",
    "YAML": lambda _: "        ",
    "log": lambda number: f"2026-03-01T12:00:{number:02}.123456Z app-1  | INFO [main] com.example.Key - ",
    "log in JSON": lambda number: f'{{"time": "12:00:{number:02}", "level": "info", "msg": "',
    "string": lambda _: '    + "',
}
SUFFIXES = {"log in JSON": '"}', "string": '\\n"'}


def prefixed(kind: str, key: str) -> str:
    lines = enumerate(key.split("\n"), 1)
    return "\n".join(f"{PREFIXES[kind](number)}{line}{SUFFIXES.get(kind, '')}" for number, line in lines)


@pytest.mark.parametrize("kind", PREFIXES)
@pytest.mark.parametrize(
    "key",
    [
        PEM,
        PEM.replace("\n", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A0B0C\n\n", 1),
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{made(70)}\n{made(30)}\n-----END OPENSSH PRIVATE KEY-----",
    ],
    ids=["RSA", "encrypted", "short"],
)
async def test_a_key_whose_lines_have_a_prefix_each_is_redacted(kind: str, key: str) -> None:
    came = f"Here:\n{prefixed(kind, key)}\nThat is it."
    whole = await read(Secrets(), came)
    assert whole.startswith(f"Here:\n{PREFIXES[kind](1)}[redacted:private_key]")
    assert whole.endswith(f"{SUFFIXES.get(kind, '')}\nThat is it.")
    assert not any(line[:12] in whole for line in key.split("\n")[1:-1] if line)
    for size in (7, 100):
        assert await read(Secrets(), *spans_of(came, [size])) == whole
    items = [*call(0, "Write", *spans_of(json.dumps({"content": came}), [30])), finish("tool_calls")]
    assert json.loads(Delivered.of(await deliver(Secrets(), items)).calls[0][2]) == {"content": whole}


@given(st.text("ab1 \t:|#>*/+-.[]", max_size=40).filter(lambda prefix: "-----" not in prefix))
@settings(max_examples=50, deadline=None)
def test_no_line_of_a_key_is_left_whatever_stands_before_it(prefix: str) -> None:
    came = "\n".join(prefix + line for line in PEM.split("\n"))
    left = apply_edits(came, edits_of(REWRITER, came))
    assert left.startswith(prefix + "[private_key]")
    assert not any(line[:12] in left for line in BODY.split("\n"))


LONG = 4_000


@pytest.mark.parametrize(
    "came",
    [
        "".join(random.Random(1).choices(string.ascii_letters + string.digits + "+/", k=LONG)),
        "".join(random.Random(2).choices(["if ", "token", "(", ")", ".", "_", "\n    ", "=", "'s'", "1", "-"], k=LONG))[
            :LONG
        ],
        *(
            text * (LONG // len(text))
            for text in ("eyJ-", "sk-", "https://u:", "Authorization: Basic ", "MT.", "eyJabcdefgh.")
        ),
        *(
            text * (LONG // len(text))
            for text in ("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----\n 1 | ")
        ),
    ],
    ids=lambda came: came[:12],
)
def test_no_text_takes_long(came: str) -> None:
    started, settled, seen = time.process_time(), 0, 0
    for end in range(20, LONG, 20):
        if (end - settled) * 8 > seen * 9:  # as a stream is searched
            settled = finalise(REWRITER, came[:end], settled, is_final=False)[1]
            seen = end - settled
    assert time.process_time() - started < LONG * 40e-6


REWRITER = GrowingRewriter(tuple(secret_rules(lambda kind, _: f"[{kind}]", assignments=True)), reach=MAX_SECRET)
FRAGMENTS = [
    *(secret for _, secret in ALL if len(secret) < 200),
    *("-----", "BEGIN ", "PRIVATE KEY", "-----END PRIVATE KEY-----", "\n", "\\n", made(20), "sk-", "ghp_", "eyJ", "."),
    *("https://u:", "@", " ", '"', "password=", "a", "$", "Authorization: Bearer ", "PGPASSWORD=", "--token "),
    *("1234567890:AA", "_live_", "Q~", ".atlasv1.", "machine h login b password ", "Private-Lines: 3\n", "\\n"),
    *(
        "https://hooks.slack.com/services/",
        ":x-oauth-basic@",
        "-----END",
        "\n12\t",
        "Private-MAC: ",
        "+",
        "dXNlcjpwdw==",
    ),
    *(PEM[:150], prefixed("arrow", PEM)[:200], PUTTY[:150]),
]


@given(
    st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.integers(0, 200)), max_size=8),
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
)
@example([("sb_secret_" + made(31), 34)], [1])  # an opening that another one ends
@settings(max_examples=100, deadline=None)
def test_any_mixture_is_redacted_the_same_whole_and_in_pieces(
    fragments: list[tuple[str, int]], sizes: list[int]
) -> None:
    whole = "".join(fragment[:length] for fragment, length in fragments)
    came = written = ""
    settled = 0
    cuts = spans_of(whole, sizes)
    for number, piece in enumerate(cuts):
        came += piece
        edits, end = finalise(REWRITER, came, settled, is_final=number == len(cuts) - 1)
        written += apply_edits(came, edits, settled, end)
        settled = end
    assert written == apply_edits(whole, edits_of(REWRITER, whole))


async def test_a_key_that_does_not_end_is_redacted_to_the_end_of_the_block() -> None:
    assert await read(Secrets(), *spans_of("a " + PEM[:700], [9])) == "a [redacted:private_key]"
    items = [*(text(piece) for piece in spans_of(PEM[:700], [9])), *call(0, "f", "{}"), finish("tool_calls")]
    delivered = Delivered.of(await deliver(Secrets(), items))
    assert (delivered.text, delivered.calls) == ("[redacted:private_key]", [("call_0", "f", "{}")])


async def test_a_text_that_cannot_be_a_secret_is_not_held() -> None:
    texts = ["Let me look ", "at the file s", "k and a", " key", " -", "-", "---", " eye", " done"]
    held = await held_while_streaming(Secrets(), texts)
    assert (held[0], held[-2], held[-1]) == (0, 0, 0)
    assert max(held) <= len("at the file s")


async def test_what_is_held_for_a_key_is_bounded() -> None:
    endless = "-----BEGIN PRIVATE KEY-----\n" + "A" * 3 * MAX_SECRET
    edits, settled = finalise(REWRITER, endless, 0, is_final=False)
    assert settled >= len(endless) - MAX_SECRET
    assert edits[0].end == MAX_SECRET


async def test_a_stream_without_secrets_leaves_as_it_came() -> None:
    items = [think("Hm, "), think("well."), *pieces("The ", "answer ", "is 42", ".\n")[:-1]]
    items += [*call(0, "Bash", '{"command": ', '"ls"}'), finish("tool_calls")]
    assert [id(item) for item in await deliver(Secrets(), items)] == [id(item) for item in items]


async def test_reasoning_is_redacted_too_and_what_follows_in_it_is_not_lost() -> None:
    token = "ghp_" + made(36)
    items = [think(piece) for piece in spans_of(f"It is {token}, I see.", [5])]
    delivered = Delivered.of(await deliver(Secrets(), [*items, text("Ok."), finish()]))
    assert (delivered.reasoning, delivered.text) == ("It is [redacted:github_token], I see.", "Ok.")


@pytest.mark.parametrize("piece", [3, 200])
async def test_a_framed_answer_keeps_its_frames_and_its_signature_unless_its_reasoning_changes(piece: int) -> None:
    token = "ghp_" + made(36)
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Which key? I see.", "signature": "signed"},
        {"type": "text", "text": f"It is {token}. Ok"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"k": token}},
    ]
    told = await messages.deliver(Secrets(), [messages.sse(*messages.streamed(messages.message(blocks), piece))])
    redacted = messages.message(json.loads(json.dumps(blocks).replace(token, "[redacted:github_token]")))
    assert messages.read(told) == messages.reading(redacted)
    blocks[0]["thinking"] = f"Which key? {token} I see."
    told = await messages.deliver(Secrets(), [messages.sse(*messages.streamed(messages.message(blocks), piece))])
    assert b"Which key? [redacted:github_token] I see." in b"".join(
        json.loads(frame)["delta"]["thinking"].encode() for frame in re.findall(rb"data: (.*thinking_delta.*)", told)
    )
    assert b"signed" not in told
    messages.read(told)


@pytest.mark.parametrize(
    "policy",
    [
        Secrets(),
        Secrets(SecretsConfig(apply_to="request")),
        StringReplacement(StringReplacementConfig(replacements=(("secret text", ""),))),
        RegexReplacement(RegexReplacementConfig(replacements=(("[0-9]+", ""),))),
    ],
)
async def test_a_framed_answer_in_which_nothing_is_found_leaves_byte_for_byte(policy: Policy) -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Ask for a key, say sk-", "signature": "signed"},
        {"type": "text", "text": "It begins with sk- or AKIA; the rest is secre"},
        {"type": "thinking", "thinking": "", "signature": "signed too"},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"k": "sk-"}},
    ]
    raw = messages.sse(*messages.streamed(messages.message(blocks), 6))
    assert await messages.deliver(policy, [raw]) == raw


@pytest.mark.parametrize("cut", [1, 10, 4000])
async def test_tool_arguments_stay_json(cut: int) -> None:
    arguments = json.dumps({"command": f'echo "{PEM}" > k; export T=ghp_{made(36)}', "n": 1.50, "ok": ["é", None]})
    items = [*call(0, "Bash", *spans_of(arguments, [cut])), finish("tool_calls")]
    [(_, _, delivered)] = Delivered.of(await deliver(Secrets(), items)).calls
    assert json.loads(delivered) == {
        "command": 'echo "[redacted:private_key]" > k; export T=[redacted:github_token]',
        "n": 1.5,
        "ok": ["é", None],
    }


async def test_arguments_that_are_no_json_are_redacted_too() -> None:
    items = [*call(0, "patch", f"+token = ghp_{made(36)}\n"), finish("tool_calls")]
    assert Delivered.of(await deliver(Secrets(), items)).calls[0][2] == "+token = [redacted:github_token]\n"


async def test_the_operator_reads_what_was_redacted_and_never_the_secret() -> None:
    ctx = context()
    token = "ghp_" + made(36)
    items = [text(f"{token} {token} {JWT}"), *call(0, "f", json.dumps({"a": token})), finish("tool_calls")]
    await deliver(Secrets(), items, ctx)
    assert [(decision.action, decision.reason) for decision in ctx.decisions] == [
        ("modify", "redacted 2 github_token, 1 jwt"),
        ("modify", "redacted 1 github_token"),
    ]


async def test_the_request_is_redacted_if_asked() -> None:
    token = "ghp_" + made(36)
    used = {"type": "tool_use", "id": "a", "name": "f", "input": {"k": token}}
    body: dict[str, Any] = {
        "system": f"key {token}",
        "messages": [
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": f"k={token}"}]},
            {"role": "assistant", "content": [used]},
        ],
    }
    asked, untouched = context(**body), context(**body)
    await PolicyExecutor(Secrets(SecretsConfig(apply_to="request"))).on_request(asked)
    await PolicyExecutor(Secrets()).on_request(untouched)
    assert token not in json.dumps(asked.final_request.body)
    assert json.dumps(asked.final_request.body).count("[redacted:github_token]") == 3
    assert [decision.reason for decision in asked.decisions] == ["redacted 3 github_token"]
    assert untouched.final_request is untouched.request
    assert token in await read(Secrets(SecretsConfig(apply_to="request")), token)


@pytest.mark.parametrize(
    "field",
    [
        {"stop": ["<>", "END"]},
        {"stop_sequences": ["<>"]},
        {"generationConfig": {"stopSequences": ["<>"], "temperature": 0.5}},
        {"context_management": {"edits": [{"type": "compact_20260112", "instructions": "<>"}]}},
        {"preamble": "<>", "chat_history": [{"role": "USER", "message": "<>"}]},
        {"input": [{"type": "program_output", "call_id": "p", "result": "<>"}]},
        {"input": [{"type": "program", "call_id": "p", "code": "print('<>')", "fingerprint": "f"}]},
    ],
    ids=lambda field: next(iter(field)),
)
async def test_texts_beside_the_conversation_are_redacted_too(field: dict[str, Any]) -> None:
    token = "ghp_" + made(36)
    asked = context(**json.loads(json.dumps(field).replace("<>", token)))
    await PolicyExecutor(Secrets(SecretsConfig(apply_to="request"))).on_request(asked)
    redacted = json.loads(json.dumps(field).replace("<>", "[redacted:github_token]"))
    assert {name: asked.final_request.body[name] for name in field} == redacted


async def test_what_is_allowed_is_left_alone() -> None:
    policy = Secrets(SecretsConfig(allow=("AKIA[A-Z0-9]{9}EXAMPLE", "hunter.*")))
    came = "AKIAIOSFODNN7EXAMPLE AKIAIOSFODNN7EXAMPLF redis://:x@h redis://a:hunter2@h"
    for size in (1, 8, 100):
        assert await read(policy, *spans_of(came, [size])) == came.replace(
            "AKIAIOSFODNN7EXAMPLF", "[redacted:aws_access_key]"
        )


@pytest.mark.parametrize(
    ("config", "said"),
    [({"allow": ["("]}, "policy.config.allow.0: "), ({"apply_to": "x"}, "policy.config.apply_to: ")],
)
def test_wrong_settings_are_refused_with_their_key(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy("luthien_litellm_hooks.policies.secrets:Secrets", config)
    assert said in str(caught.value)
