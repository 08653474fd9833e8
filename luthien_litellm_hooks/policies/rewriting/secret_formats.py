"""Formats of private keys and of services' tokens, as patterns that stream.

The formats are those of the issuers. Facts about them are also from the rules of gitleaks (MIT), kingfisher
(Apache-2.0) and secretlint (MIT). A length is a minimum if newer tokens may be longer.
"""

from base64 import b64encode

from luthien_litellm_hooks.policies.rewriting.partial_match import EDGE, Part, any_case, either, maybe, plain, run, then

HEX = "[0-9a-f]"
ANY_HEX = "[0-9a-fA-F]"
DIGIT = "[0-9]"
ALNUM = "[A-Za-z0-9]"
CAPITAL = "[A-Z0-9]"
WORD = "[A-Za-z0-9_]"
URL_SAFE = "[A-Za-z0-9_-]"
BASE64 = "[A-Za-z0-9+/]"
PADDED = "[A-Za-z0-9+/=]"
PLAIN = "[A-Za-z0-9_.=-]"

BEFORE = Part(r"(?:\b|\\[nrt])", r"\\?", is_empty=True)
"""Beginning of a word, also directly after an escaped end of line."""


def at_least(characters: str, length: int) -> Part:
    """Returns `length` of `characters`, and every direct continuation, so that no end of a longer token stays. Five
    dashes end it: they begin a private key."""
    return Part(f"{characters}{{{length}}}(?:-{{0,4}}{WORD})*", f"{URL_SAFE}*")


def in_parts(separator: str, *parts: tuple[str, int]) -> Part:
    """Returns runs of these characters and lengths, with `separator` between them; the last may be longer."""
    fixed = [part for characters, length in parts[:-1] for part in (run(characters, length, length), plain(separator))]
    return then(*fixed, run(*parts[-1]))


UUID = then(in_parts("-", (ANY_HEX, 8), (ANY_HEX, 4), (ANY_HEX, 4), (ANY_HEX, 4), (ANY_HEX, 12)))

_PEM_LABEL = then(run("[A-Z0-9 ]", 0, 30), plain("PRIVATE KEY"), maybe(plain(" BLOCK")))
# Its lines may carry a prefix each: a number, a time, a mark of a comment, a file's name.
_FAR_LINE = Part(
    f"(?:-{{0,4}}[^-]){{0,200}}?(?:{BASE64}{{48}}|Proc-Type: 4|DEK-Info: )",
    "(?:-{0,4}[^-]){0,248}-{0,4}",
)
_PEM_REST = then(
    Part("(?:-{0,4}[^-])*", "(?:-{0,4}[^-])*-{0,4}", is_empty=True),
    maybe(then(run("-", 5, 9), plain("END "), _PEM_LABEL, plain("-----"))),
)
_NEAR_LINE = then(
    run(r"""[\s\\nr"'+,|>]""", 0, 30),
    either(run("[A-Za-z0-9+/=]", 16, 16), plain("Proc-Type:", "DEK-Info:", "Version:", "Comment:")),
)
# RFC 7468 and RFC 4880. In code, the key is quoted, with escapes for the ends of its lines.
# Without an end it extends to the next five dashes. Prose about the first line is not a key.
PEM = then(
    plain("-----BEGIN "),
    _PEM_LABEL,
    plain("-----"),
    either(_NEAR_LINE, _FAR_LINE),
    _PEM_REST,
)
_PEM_LABELS = ("", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ", "PGP ")
# A key as Kubernetes keeps it, in one line or in several: its beginning does not depend on the rest.
_MORE_LINES = rf"\s{{1,12}}{BASE64}"
PEM_IN_BASE64 = then(
    plain(*(b64encode(f"-----BEGIN {label}PRIVATE KEY".encode()).decode()[:-4] for label in _PEM_LABELS)),
    Part(
        rf"{PADDED}{{40,}}(?:(?:{_MORE_LINES}{{60,76}})+(?:{_MORE_LINES}{{1,76}}=*)?)?",
        rf"{PADDED}*(?:{_MORE_LINES}{{60,76}})*(?:\s{{1,12}}{BASE64}{{0,76}}=*)?",
    ),
)
# Appendix C of PuTTY's manual. A private part ends with its MAC.
_NO_MAC = "(?:[^P]|P[^r]|Pr[^i]|Pri[^v]|Priv[^a]|Priva[^t]|Privat[^e]|Private[^-])*"
PUTTY = then(
    _FAR_LINE,
    Part(_NO_MAC, f"{_NO_MAC}(?:P(?:r(?:i(?:v(?:a(?:te?)?)?)?)?)?)?", is_empty=True),
    maybe(then(plain("Private-MAC: "), run(HEX, 40, 64))),
)

TOKENS: tuple[tuple[str, Part], ...] = (
    # The IAM user guide, "Unique identifiers"; the Bedrock user guide, "API keys"
    ("aws_access_key", then(plain("AKIA", "ASIA", "ABIA", "ACCA"), run(CAPITAL, 16, 16), EDGE)),
    (
        "aws_bedrock_key",
        either(then(plain("ABSK"), run(PADDED, 100)), then(plain("bedrock-api-key-"), run("[A-Za-z0-9+/=_%.-]", 28))),
    ),
    # "Behind GitHub's new authentication token formats", GitHub's blog, 2021. A token of an app may be a JWT.
    (
        "github_token",
        then(
            plain("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
            run(WORD, 36),
            maybe(then(plain("."), run(URL_SAFE, 16), plain("."), run(URL_SAFE, 16))),
        ),
    ),
    # GitLab's documentation, "Token prefixes"
    (
        "gitlab_token",
        then(
            plain(
                *("glpat-", "gloas-", "gldt-", "glrt-", "glrtr-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-"),
                *("glsoat-", "glffct-", "glwt-", "GR1348941"),
            ),
            run("[A-Za-z0-9_.-]", 20),
        ),
    ),
    # Slack's documentation, "Tokens"
    (
        "slack_token",
        then(
            plain("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxo-", "xoxe-", "xapp-", "xoxe.xoxp-", "xoxe.xoxb-"),
            run("[A-Za-z0-9-]", 20),
        ),
    ),
    # Stripe's documentation: secret and restricted keys of live mode, webhook secrets
    ("stripe_key", then(plain("sk_live_", "rk_live_", "whsec_"), at_least(ALNUM, 24))),
    # Anthropic: API and admin keys
    ("anthropic_key", then(plain("sk-ant-"), run(URL_SAFE, 20))),
    # Google: API keys, OAuth access and refresh tokens, OAuth client secrets
    ("google_key", then(plain("AIza"), at_least(URL_SAFE, 35))),
    ("google_oauth_token", then(plain("ya29."), run(URL_SAFE, 30))),
    ("google_oauth_token", then(plain("1//0"), run(URL_SAFE, 40))),
    ("google_oauth_secret", then(plain("GOCSPX-"), at_least(URL_SAFE, 28))),
    # npm: granular access tokens
    ("npm_token", then(plain("npm_"), run(ALNUM, 36))),
    # The help page of PyPI, "How can I use API tokens": a macaroon whose first field is the host
    ("pypi_token", then(plain("pypi-AgEIcHlwaS5vcmc", "pypi-AgENdGVzdC5weXBpLm9yZw"), run(URL_SAFE, 50))),
    # SendGrid: an id and a secret
    ("sendgrid_key", then(plain("SG."), run(URL_SAFE, 16, 32), plain("."), run(URL_SAFE, 32, 64))),
    # Twilio: the SID of an API key
    ("twilio_key", then(plain("SK"), run(HEX, 32, 32), EDGE)),
    # Hugging Face: tokens of users and of organisations
    ("huggingface_token", then(plain("hf_", "api_org_"), run(ALNUM, 30))),
    # DigitalOcean: personal, OAuth and refresh tokens
    ("digitalocean_token", then(plain("dop_v1_", "doo_v1_", "dor_v1_"), run(HEX, 64, 64))),
    # shopify.dev/changelog/length-of-the-shopify-access-token-is-increasing; `shpss_` is an app's secret
    ("shopify_token", then(plain("shpat_", "shpca_", "shppa_", "shpss_"), run(ANY_HEX, 32))),
    # Databricks: personal access tokens
    ("databricks_token", then(plain("dapi"), run(ANY_HEX, 32, 32), maybe(then(plain("-"), run(DIGIT, 1, 1))))),
    # Vault: service, batch and recovery tokens
    ("vault_token", then(plain("hvs.", "hvb.", "hvr."), run(URL_SAFE, 24))),
    # Groq
    ("groq_key", then(plain("gsk_"), run(ALNUM, 40))),
    # age-encryption.org/v1
    ("age_key", then(plain("AGE-SECRET-KEY-1"), run(CAPITAL, 58, 58))),
    # Grafana: keys as JSON objects in base64, tokens of service accounts and of Grafana Cloud
    ("grafana_token", then(plain("eyJrIjoi"), run(PADDED, 60))),
    ("grafana_token", then(plain("glsa_"), in_parts("_", (ALNUM, 32), (ANY_HEX, 8)))),
    ("grafana_token", then(plain("glc_"), run(PADDED, 32))),
    # RFC 7519: two base64url objects, each beginning with `{"`, and a signature
    (
        "jwt",
        then(plain("eyJ"), run(URL_SAFE, 8), plain(".eyJ"), run(URL_SAFE, 8), plain("."), run(URL_SAFE, 16)),
    ),
    # Discord: the number of a bot in base64, a time, a signature
    (
        "discord_token",
        then(
            plain(*(first + second for first in "MNO" for second in "DTjz")),
            run(URL_SAFE, 20, 26),
            plain("."),
            run(URL_SAFE, 6, 6),
            plain("."),
            run(URL_SAFE, 27),
        ),
    ),
    # Cloudflare: API tokens and keys since 2025, keys of the origin CA
    ("cloudflare_token", then(plain("cfat_", "cfut_", "cfk_"), run(ALNUM, 40))),
    ("cloudflare_token", then(plain("v1.0-"), in_parts("-", (HEX, 24), (HEX, 146)))),
    # Services with a published mark of their own
    ("1password_token", then(plain("ops_eyJ"), run("[A-Za-z0-9+/=_-]", 200))),
    ("1password_key", then(plain("A3-"), run(CAPITAL, 6, 6), plain("-"), run("[A-Z0-9-]", 29, 30), EDGE)),
    ("adobe_secret", then(plain("p8e-"), run(URL_SAFE, 32))),
    ("airtable_token", then(plain("pat"), in_parts(".", (ALNUM, 14), (HEX, 64)))),
    ("alibaba_key", then(plain("LTAI"), run(ALNUM, 12, 20), EDGE)),
    ("apify_token", then(plain("apify_api_"), run(ALNUM, 36))),
    ("artifactory_token", then(plain("AKCp"), run(ALNUM, 60))),
    ("artifactory_token", then(plain("cmVmd"), run(ALNUM, 59, 59), EDGE)),
    ("atlassian_token", then(plain("ATATT3", "ATCTT3"), run("[A-Za-z0-9_=-]", 100))),
    ("atlassian_token", then(plain("ATBB"), run(ALNUM, 32, 32), EDGE)),
    ("brevo_key", then(plain("xkeysib-", "xsmtpsib-"), in_parts("-", (HEX, 64), (ALNUM, 16)))),
    ("buildkite_token", then(plain("bkua_", "bkpi_", "bkct_"), run(ALNUM, 40))),
    ("cerebras_key", then(plain("csk-"), run(ALNUM, 40))),
    ("circleci_token", then(plain("CCIPAT_", "CCIPRJ_"), run(WORD, 40))),
    ("clickup_token", then(plain("pk_"), run(DIGIT, 6, 10), plain("_"), run(CAPITAL, 32))),
    ("clojars_token", any_case(then(plain("clojars_"), run(ALNUM, 60)))),
    ("contentful_token", then(plain("CFPAT-"), run(URL_SAFE, 43))),
    ("crates_io_token", then(plain("cio"), run(ALNUM, 32, 32), EDGE)),
    ("defined_networking_key", then(plain("dnkey-"), in_parts("-", ("[A-Za-z0-9=_]", 26), ("[A-Za-z0-9=_]", 52)))),
    ("dependency_track_key", then(plain("odt_"), run(ALNUM, 32))),
    ("docker_token", then(plain("dckr_pat_", "dckr_oat_"), run(URL_SAFE, 27))),
    ("docker_token", then(plain("SWMTKN-1-"), run("[a-z0-9-]", 50))),
    (
        "doppler_token",
        then(plain(*(f"dp.{kind}." for kind in ("pt", "st", "ct", "sa", "said", "scim", "audit"))), run(PLAIN, 40)),
    ),
    ("dropbox_token", then(plain("sl."), run("[A-Za-z0-9_.=-]", 130))),
    ("duffel_token", then(plain("duffel_live_", "duffel_test_"), run("[A-Za-z0-9_=-]", 43))),
    (
        "dynatrace_token",
        then(plain("dt0c", "dt0s"), run(DIGIT, 2, 2), plain("."), in_parts(".", (ALNUM, 24), (ALNUM, 64))),
    ),
    ("easypost_key", then(plain("EZAK", "EZTK"), run(ALNUM, 54))),
    ("elevenlabs_key", then(plain("sk_"), run(HEX, 48, 48), EDGE)),
    ("facebook_token", then(plain("EAA"), run(ALNUM, 100))),
    ("figma_token", then(plain("figd_", "figo_", "figu_"), run(URL_SAFE, 38))),
    ("flutterwave_key", then(plain("FLWSECK-", "FLWSECK_TEST-"), run("[A-Za-z0-9-]", 12))),
    ("fly_token", then(plain("fm1a_", "fm1r_", "fm2_"), run(PADDED, 80))),
    ("fly_token", then(plain("fo1_"), run(URL_SAFE, 43))),
    ("frameio_token", then(plain("fio-u-"), run("[A-Za-z0-9_=-]", 64))),
    ("harness_token", then(plain("pat.", "sat."), in_parts(".", (URL_SAFE, 22), (ALNUM, 24), (ALNUM, 20)))),
    ("heroku_token", then(plain("HRKU-"), run(URL_SAFE, 36))),
    ("honeycomb_key", then(plain("hcaik_", "hcalk_", "hcxik_"), run(ALNUM, 50))),
    ("hubspot_token", then(plain("pat-na", "pat-eu", "pat-ap"), run(DIGIT, 1, 2), plain("-"), UUID)),
    ("infracost_token", then(plain("ico-"), run(ALNUM, 32))),
    ("intra42_secret", then(plain("s-s4t2ud-", "s-s4t2af-"), run(HEX, 64))),
    ("langsmith_key", then(plain("lsv2_pt_", "lsv2_sk_"), run("[0-9a-z_]", 40))),
    ("linear_token", then(plain("lin_api_", "lin_oauth_"), run(ALNUM, 40))),
    ("mailersend_token", then(plain("mlsn."), run(HEX, 64))),
    ("mailgun_key", then(plain("key-"), run(HEX, 32, 32), EDGE)),
    ("mapbox_token", then(plain("sk.eyJ", "tk.eyJ"), run(URL_SAFE, 20), plain("."), run(URL_SAFE, 20))),
    ("mongodb_atlas_secret", then(plain("mdb_sa_sk_"), run(URL_SAFE, 40))),
    ("neon_key", then(plain("napi_"), run(ALNUM, 60))),
    ("netlify_token", then(plain("nfp_", "nfc_", "nfo_", "nfu_", "nfb_"), run(ALNUM, 36))),
    ("new_relic_key", then(plain("NRJS-"), run(HEX, 19, 19), EDGE)),
    ("new_relic_key", then(plain("NRAK-", "NRII-", "NRIQ-", "NRRA-"), run(URL_SAFE, 27))),
    ("notion_token", then(plain("ntn_"), run(ALNUM, 40))),
    ("notion_token", then(plain("secret_"), run(ALNUM, 43, 43), EDGE)),
    ("nuget_key", then(plain("oy2"), run("[a-z0-9]", 43, 43), EDGE)),
    ("nvidia_key", then(plain("nvapi-"), run(URL_SAFE, 60))),
    ("octopus_key", then(plain("API-"), run(CAPITAL, 26, 32), EDGE)),
    ("openshift_token", then(plain("sha256~"), run(URL_SAFE, 43))),
    ("perplexity_key", then(plain("pplx-"), run(ALNUM, 40))),
    ("pinecone_key", then(plain("pcsk_"), run(WORD, 50))),
    ("plaid_token", then(plain("access-sandbox-", "access-development-", "access-production-"), UUID)),
    ("planetscale_token", then(plain("pscale_tkn_", "pscale_oauth_", "pscale_pw_"), run(PLAIN, 32))),
    ("posthog_key", then(plain("phx_", "phs_"), run(ALNUM, 40))),
    ("postman_key", then(plain("PMAK-"), in_parts("-", (ANY_HEX, 24), (ANY_HEX, 32)))),
    ("prefect_key", then(plain("pnu_", "pnb_"), run(ALNUM, 36))),
    ("pulumi_token", then(plain("pul-"), run(HEX, 40))),
    ("readme_key", then(plain("rdme_"), run("[a-z0-9]", 70))),
    ("render_key", then(plain("rnd_"), run(ALNUM, 28))),
    ("replicate_token", then(plain("r8_"), run(ALNUM, 37))),
    ("resend_key", then(plain("re_"), in_parts("_", (ALNUM, 8), (ALNUM, 24)))),
    ("rubygems_key", then(plain("rubygems_"), run(HEX, 48))),
    ("salesforce_token", then(plain("00D"), run(ALNUM, 12, 15), plain("!"), run("[A-Za-z0-9._]", 80))),
    ("scalingo_token", then(plain("tk-us-"), run(URL_SAFE, 48))),
    ("sentry_token", then(plain("sntrys_"), run("[A-Za-z0-9+/=_]", 60))),
    ("sentry_token", then(plain("sntryu_", "sntrya_", "sntryi_"), run(HEX, 64))),
    ("settlemint_token", then(plain("sm_aat_", "sm_pat_", "sm_sat_"), run(ALNUM, 16))),
    ("shippo_token", then(plain("shippo_live_", "shippo_test_"), run(HEX, 40))),
    ("sonar_token", then(plain("sqp_", "squ_", "sqa_"), run(HEX, 40, 40), EDGE)),
    ("sourcegraph_token", then(plain("sgp_"), run(WORD, 40))),
    ("square_token", then(plain("sq0atp-", "sq0csp-"), run(URL_SAFE, 22))),
    ("stackhawk_key", then(plain("hawk."), in_parts(".", (URL_SAFE, 20), (URL_SAFE, 20)))),
    ("supabase_token", then(plain("sbp_", "sbp_oauth_"), run(HEX, 40))),
    ("supabase_token", then(plain("sb_secret_"), run(URL_SAFE, 31))),
    (
        "tailscale_key",
        then(plain(*(f"tskey-{kind}-" for kind in ("api", "auth", "client", "scim", "webhook"))), run(URL_SAFE, 16)),
    ),
    ("tavily_key", then(plain("tvly-", "tvly-dev-"), run(ALNUM, 30))),
    ("typeform_token", then(plain("tfp_"), run(PLAIN, 40))),
    ("wakatime_key", then(plain("waka_"), UUID)),
    ("xai_key", then(plain("xai-"), run(WORD, 70))),
    ("yandex_key", then(plain("AQVN"), run(URL_SAFE, 35, 38), EDGE)),
)
API_KEY = then(plain("sk-"), run(URL_SAFE, 20))
