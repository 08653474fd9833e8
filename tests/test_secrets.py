"""Secrets: each known format is redacted wherever it stands and however it is cut; look-alikes are not."""

import json
import random
import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthien_litellm_hooks import ConfigError, Policy, PolicyExecutor
from luthien_litellm_hooks.parsing.growing import GrowingRewriter
from luthien_litellm_hooks.parsing.rewriting import apply_edits, edits_of, settle
from luthien_litellm_hooks.parsing.secret_patterns import MAX_SECRET, secret_rules
from luthien_litellm_hooks.policies.regex_replacement import RegexReplacement, RegexReplacementConfig
from luthien_litellm_hooks.policies.secrets import Secrets, SecretsConfig
from luthien_litellm_hooks.policies.string_replacement import StringReplacement, StringReplacementConfig
from luthien_litellm_hooks.policy_loading import load_policy
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
from tests.test_text_policies import held_while_streaming, pieces, spans_of


def made(length: int, characters: str = string.ascii_letters + string.digits) -> str:
    """Random characters, always the same."""
    return "".join(random.Random(length).choices(characters, k=length))


HEX = "0123456789abcdef"
BODY = "\n".join(made(64, string.ascii_letters + "+/") for _ in range(25))
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"
JWT = f"eyJ{made(30)}.eyJ{made(80)}.{made(43)}"

SECRETS: dict[str, list[str]] = {
    "private_key": [
        PEM,
        PEM.replace("RSA ", ""),
        PEM.replace("RSA", "OPENSSH"),
        PEM.replace("\n", "\\n"),
        PEM.replace("\n", "\n\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\n", 1),
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n" + BODY + "\n-----END PGP PRIVATE KEY BLOCK-----",
    ],
    "aws_access_key": ["AKIAIOSFODNN7EXAMPLE", "ASIA" + made(16, string.ascii_uppercase)],
    "github_token": [f"gh{kind}_{made(36)}" for kind in "pousr"] + ["github_pat_" + made(82)],
    "gitlab_token": ["glpat-" + made(20), "glrt-t1_" + made(20)],
    "slack_token": [f"xoxb-{made(12, string.digits)}-{made(24)}", f"xapp-1-{made(40)}"],
    "stripe_key": ["sk_live_" + made(24), "rk_live_" + made(99), "whsec_" + made(32)],
    "anthropic_key": [f"sk-ant-api03-{made(93)}-{made(6)}AA"],
    "google_key": ["AIza" + made(35)],
    "google_oauth_token": ["ya29." + made(60)],
    "google_oauth_secret": ["GOCSPX-" + made(28)],
    "npm_token": ["npm_" + made(36)],
    "pypi_token": ["pypi-AgEIcHlwaS5vcmc" + made(120)],
    "sendgrid_key": [f"SG.{made(22)}.{made(43)}"],
    "twilio_key": ["SK" + made(32, HEX)],
    "huggingface_token": ["hf_" + made(34)],
    "digitalocean_token": ["dop_v1_" + made(64, HEX)],
    "shopify_token": ["shpat_" + made(32, HEX)],
    "databricks_token": ["dapi" + made(32, HEX)],
    "vault_token": ["hvs." + made(90)],
    "groq_key": ["gsk_" + made(52)],
    "age_key": ["AGE-SECRET-KEY-1" + made(58, string.ascii_uppercase + string.digits)],
    "jwt": [JWT],
    "api_key": ["sk-proj-" + made(120), "sk-" + made(48), "sk-or-v1-" + made(64, HEX)],
}
ALL = [(kind, secret) for kind, secrets in SECRETS.items() for secret in secrets]

INNOCENT = [
    "The header is `-----BEGIN RSA PRIVATE KEY-----`, then base64, then `-----END RSA PRIVATE KEY-----`.",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "AKIA is how it begins; AKIAIOSFODNN7EXAMPLEX is too long, AKIAIOSFODNN7 too short",
    "ghp_short, xghp_" + made(36),
    "class sk-folding-cube-animation-container and sk-1234",
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


REWRITER = GrowingRewriter(tuple(secret_rules(lambda kind, _: f"[{kind}]", assignments=True)), reach=MAX_SECRET)
FRAGMENTS = [
    *(secret for _, secret in ALL if len(secret) < 200),
    *("-----", "BEGIN ", "PRIVATE KEY", "-----END PRIVATE KEY-----", "\n", "\\n", made(20), "sk-", "ghp_", "eyJ", "."),
    *("https://u:", "@", " ", '"', "password=", "a"),
    PEM[:150],
]


@given(
    st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.integers(0, 200)), max_size=8),
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
)
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
        edits, end = settle(REWRITER, came, settled, is_final=number == len(cuts) - 1)
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
    edits, settled = settle(REWRITER, endless, 0, is_final=False)
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
