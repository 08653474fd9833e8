"""`luthien-hooks check`: it finds what is wrong with a config, with the key and the line; and with none of these
does a proxy start, save where LiteLLM never comes to load the plugin."""

import asyncio
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import litellm
import pytest
from litellm.proxy import proxy_server
from litellm.proxy.proxy_server import ProxyConfig
from typer.testing import CliRunner, Result

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.config.check.source import read_source
from luthien_litellm_hooks.config.settings import POLICY_FILE_VARIABLE
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.hooks.config_file import require_policy
from tests.support.proxy import KEY, ROOT

NAMED = """\
litellm_settings:
  callbacks: [luthien_litellm_hooks.luthien]
"""
JUDGE = "class: tool_call_judge, config: {model: judge, model_group: true}"


@pytest.fixture(autouse=True)
def _master_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", KEY)


# A line that is wrong ends in `#!` and the key; "~" before it stands for `callback_settings.luthien.`
BROKEN = {
    "an unknown key": """
callback_settings:
  luthien:
    policy: {class: noop}
    quue: {max_items: 5} #! ~quue
""",
    "an unknown key of a section": """
callback_settings:
  luthien:
    policy: {class: noop}
    queue:
      max_item: 5 #! ~queue.max_item
""",
    "an unknown key of a policy": """
callback_settings:
  luthien:
    policy:
      class: noop
      timeout: 3 #! ~policy.timeout
""",
    "an unknown key of a policy's own": """
callback_settings:
  luthien:
    policy:
      class: all_caps
      config:
        tool_argments: true #! ~policy.config.tool_argments
""",
    "a policy that is not called so": """
callback_settings:
  luthien:
    policy:
      class: secrts #! ~policy.class
""",
    "a module that there is not": """
callback_settings:
  luthien:
    policy:
      class: no_such_module:Policy #! ~policy.class
""",
    "a module that fails": """
callback_settings:
  luthien:
    policy:
      class: failing_module:Policy #! ~policy.class
""",
    "a class that there is not": """
callback_settings:
  luthien:
    policy:
      class: luthien_litellm_hooks.policies.noop:NoOpp #! ~policy.class
""",
    "a class that is no policy": """
callback_settings:
  luthien:
    policy:
      class: collections:OrderedDict #! ~policy.class
""",
    "no class": """
callback_settings:
  luthien:
    policy: #! ~policy.class
      config: {}
""",
    "a word that YAML takes for a truth": """
callback_settings:
  luthien:
    policy:
      class: no #! ~policy.class
""",
    "no blank after a colon": """
callback_settings:
  luthien:
    policy: #! ~policy
      class:noop
""",
    "a list in place of a mapping": """
callback_settings:
  luthien:
    policy: #! ~policy
      - class: noop
""",
    "several mistakes": """
callback_settings:
  luthien:
    policy:
      class: all_caps
      timeout_s: -1 #! ~policy.timeout_s
      on_policy_error: ignore #! ~policy.on_policy_error
      config: {loud: true} #! ~policy.config.loud
    block_status: 200 #! ~block_status
""",
    "several policies": """
callback_settings:
  luthien:
    policy:
      class: serial
      config:
        policies:
          - class: nop #! ~policy.config.policies.0.class
          - class: all_caps
            when: {model: gpt} #! ~policy.config.policies.1.when.model
          - class: regex_replacement
            config:
              replacements: 5 #! ~policy.config.policies.2.config.replacements
""",
    "a serial of nothing": """
callback_settings:
  luthien:
    policy:
      class: serial
      config:
        policies: [] #! ~policy.config.policies
""",
    "a voter of several": """
callback_settings:
  luthien:
    policy:
      class: parallel
      config:
        policies:
          - class: serial #! ~policy.config.policies.0.class
            config: {policies: [{class: noop}]}
""",
    "a key that stands twice": """
callback_settings:
  luthien:
    policy: {class: block_dangerous_commands}
    on_block: error
    policy: {class: noop} #! ~policy
""",
    "a section that stands twice": """
callback_settings:
  luthien:
    policy: {class: noop}
callback_settings: #! callback_settings
  luthien:
    policy: {class: noop}
""",
    "callbacks that stand twice": """
callback_settings:
  luthien:
    policy: {class: noop}
litellm_settings: #! litellm_settings
  callbacks: [luthien_litellm_hooks.luthien]
""",
    "a tab": """
callback_settings:
  luthien:
\tpolicy: {class: noop} #!
""",
    "a line too far to the right": """
callback_settings:
  luthien:
    policy:
      class: noop
        timeout_s: 3 #!
""",
    "a line too far to the left": """
callback_settings:
  luthien:
  policy: #! callback_settings.policy
    class: noop
""",
    "a bracket that is not closed": """
callback_settings:
  luthien:
    policy: {class: noop #!
""",
    "two documents": """
callback_settings:
  luthien:
    policy: {class: noop}
--- #!
model_list: []
""",
    "a date that there is not": """
callback_settings:
  luthien:
    policy: {class: noop, when: {models: 2026-13-45}} #! ~policy.when.models
""",
    "a Python tag": """
callback_settings:
  luthien:
    policy: {class: !!python/name:os.system } #! ~policy.class
""",
    "settings under another name": """
callback_settings:
  luthein: #! callback_settings.luthein
    policy: {class: noop}
""",
    "a section under another name": """
callback_setting: #! callback_setting
  luthien:
    policy: {class: noop}
""",
    "a section in the wrong place": """
  callback_settings: #! litellm_settings.callback_settings
    luthien:
      policy: {class: noop}
""",
    "no settings": """
callback_settings: #! callback_settings.luthien
  langfuse: {}
""",
    "a judge that the proxy does not have": """
model_list:
  - model_name: gpt
    litellm_params: {model: openai/gpt}
callback_settings:
  luthien:
    policy:
      class: llm_rules
      config:
        model: gpd #! ~policy.config.model
        model_group: true
        rules: [{name: polite, rule: Be polite.}]
""",
    "a variable that is not set": """
callback_settings:
  luthien:
    policy:
      class: tool_call_judge
      config:
        model: openai/gpt
        api_key: os.environ/NO_SUCH_VARIABLE #! ~policy.config.api_key
""",
    "a variable that is set too late": """
environment_variables: {LATE_KEY: k}
callback_settings:
  luthien:
    policy:
      class: tool_call_judge
      config:
        model: openai/gpt
        api_key: os.environ/LATE_KEY #! ~policy.config.api_key
""",
    "a judge with two kinds of keys": """
model_list:
  - model_name: judge
    litellm_params: {model: openai/gpt}
callback_settings:
  luthien:
    policy:
      class: tool_call_judge
      config:
        model: judge
        api_key: secret-of-mine
        model_group: true #! ~policy.config.model_group
""",
    "a route that there is not": """
callback_settings:
  luthien:
    policy: {class: noop}
    ungoverned_routes:
      - /v1/threads
      - pass_through #! ~ungoverned_routes.1
""",
    "a route without its slash": """
callback_settings:
  luthien:
    policy: {class: noop}
    ungoverned_routes: [v1/threads] #! ~ungoverned_routes.0
""",
    "a word for no routes": """
callback_settings:
  luthien:
    policy: {class: noop}
    ungoverned_routes: none #! ~ungoverned_routes
""",
    "a sink that is none": """
callback_settings:
  luthien:
    policy: {class: noop}
    events: {redis: 5} #! ~events.redis
""",
    "a file that is not there": """
include: [models.yaml] #! include
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "a policy file that is not there": """
environment_variables:
  LUTHIEN_POLICY_CONFIG: /nonexistent/policy.yaml #! LUTHIEN_POLICY_CONFIG
""",
    "a policy in two places": """
environment_variables: {LUTHIEN_POLICY_CONFIG: policy.yaml}
callback_settings:
  luthien:
    policy: {class: noop} #! ~policy
""",
}
BROKEN = {name: NAMED + text.removeprefix("\n") for name, text in BROKEN.items()}
BROKEN |= {
    "the plugin twice": """\
litellm_settings:
  callbacks:
    - luthien_litellm_hooks.luthien
    - luthien_litellm_hooks.luthien #! litellm_settings.callbacks.1
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "the plugin among those that are only told": """\
litellm_settings:
  success_callback: [luthien_litellm_hooks.luthien] #! litellm_settings.success_callback.0
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "the plugin under another name": """\
litellm_settings:
  callbacks: [luthien_litellm_hooks.luthein] #! litellm_settings.callbacks.0
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "the package in place of the plugin": """\
litellm_settings:
  callbacks: [luthien_litellm_hooks] #! litellm_settings.callbacks.0
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "a list as the whole": """\
- litellm_settings: {callbacks: [luthien_litellm_hooks.luthien]} #!
""",
}

OF_LITELLM = {
    "a tab",
    "a line too far to the right",
    "a bracket that is not closed",
    "two documents",
    "a date that there is not",
    "a Python tag",
    "a file that is not there",
    "the plugin under another name",
    "the package in place of the plugin",
    "a list as the whole",
}
"""What LiteLLM itself refuses, before it comes to the plugin."""

# LiteLLM imports a plugin only where `callbacks` names it: with these it starts, and never comes to us.
UNNAMED = {
    "no callbacks": """\
litellm_settings: #! litellm_settings.callbacks
  drop_params: true
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "callbacks under another name": """\
litellm_settings:
  callback: [luthien_litellm_hooks.luthien] #! litellm_settings.callback
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "other callbacks": """\
litellm_settings:
  callbacks: [otel] #! litellm_settings.callbacks
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "callbacks in the wrong place": """\
callbacks: [luthien_litellm_hooks.luthien] #! callbacks
callback_settings:
  luthien:
    policy: {class: noop}
""",
    "their section under another name": """\
litellm_setting: #! litellm_setting
  callbacks: [luthien_litellm_hooks.luthien]
callback_settings:
  luthien:
    policy: {class: noop}
""",
}
GOOD = NAMED + "callback_settings:\n  luthien:\n    policy: {class: noop}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that LiteLLM is started in, where it finds modules, without what the environment may say."""
    (tmp_path / "failing_module.py").write_text("raise OSError('no disk')")
    (tmp_path / "policy.yaml").write_text("policy: {class: noop}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(POLICY_FILE_VARIABLE, raising=False)


def write(text: str, name: str = "config.yaml") -> Path:
    path = Path.cwd() / name
    path.write_text(text)
    return path


def check(path: Path, **environment: str) -> Result:
    return CliRunner().invoke(app, ["check", str(path), "--json"], env=environment)


def findings(path: Path, level: str = "error", **environment: str) -> list[tuple[int, str]]:
    """The line and the key of each finding in the config itself."""
    found = json.loads(check(path, **environment).stdout)["findings"]
    return [(row["line"], row["key"]) for row in found if (row["level"], row["file"]) == (level, str(path))]


def marked(text: str) -> list[tuple[int, str]]:
    """The lines that are marked as wrong, and their keys."""
    keys = [re.search(r"#! ?(.*)", line) for line in text.splitlines()]
    return [(n, key[1].replace("~", "callback_settings.luthien.")) for n, key in enumerate(keys, 1) if key]


def start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads a config as LiteLLM does when it starts."""
    for holder, name, value in (
        (litellm, "callbacks", []),
        (litellm, "success_callback", []),
        (litellm, "callback_settings", {}),
        (litellm, "drop_params", False),
        (proxy_server, "user_config_file_path", None),
    ):
        monkeypatch.setattr(holder, name, value)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.syspath_prepend(path.parent)
    asyncio.run(ProxyConfig().load_config(router=None, config_file_path=str(path)))


@pytest.mark.parametrize("name", [*BROKEN, *UNNAMED])
def test_each_mistake_is_found_with_its_key_and_line(name: str) -> None:
    text = {**BROKEN, **UNNAMED}[name]
    path = write(text)
    assert findings(path) == marked(text)
    assert check(path).exit_code == 1


@pytest.mark.parametrize("name", BROKEN)
def test_no_broken_config_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(BROKEN[name])
    with pytest.raises(Exception, match=r".") as raised:
        start(path, monkeypatch)
    assert isinstance(raised.value, ConfigError) == (name not in OF_LITELLM)
    if name not in OF_LITELLM:
        assert f"{path}:{marked(BROKEN[name])[0][0]}: error: " in str(raised.value)


@pytest.mark.parametrize("name", UNNAMED)
def test_where_nothing_names_the_plugin_a_startup_hook_stops_the_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(UNNAMED[name])
    start(path, monkeypatch)  # LiteLLM has not come to us
    monkeypatch.setenv("WORKER_CONFIG", json.dumps({"config": str(path)}))
    with pytest.raises(ConfigError, match=re.escape(marked(UNNAMED[name])[0][1])):
        require_policy()


def test_the_startup_hook_lets_a_right_config_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIG_FILE_PATH", str(write(GOOD)))
    require_policy()


RIGHT = NAMED + "callback_settings:\n  luthien:\n    policy: {class: noop}\n"


@pytest.mark.parametrize("before", ["otel", "prometheus", "s3", "a..b", "."])
@pytest.mark.parametrize("command", ["check", "demo", "start"])
def test_a_callback_of_litellms_own_may_stand_before_ours(
    before: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(RIGHT.replace("[luthien", f'["{before}", luthien').replace("noop", "noup"))
    monkeypatch.chdir(path.parent)
    if command == "start":
        monkeypatch.setenv("CONFIG_FILE_PATH", path.name)
        with pytest.raises(ConfigError, match="noup"):
            require_policy()
        return
    arguments = ["check", path.name] if command == "check" else ["demo", "--config", path.name]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.exception
    assert "noup" in done.output


NO_KEY = {
    "none": (None, ""),
    "an empty one": ("", ""),
    "blank": ("  ", ""),
    "a publicly known one": ("sk-1234", ""),
    "in the config, publicly known": (KEY, "general_settings: {master_key: sk-1234}\n"),
    "in the config, empty": (KEY, "general_settings: {master_key: ''}\n"),
    "in the config, nothing": (KEY, "general_settings: {master_key: }\n"),
    "in the config, not set": (KEY, "general_settings: {master_key: os.environ/NOT_THERE}\n"),
}
A_KEY = {
    "in the environment": (KEY, ""),
    "in the config": (None, f"general_settings: {{master_key: {KEY}}}\n"),
    "in the config's environment": (None, f"environment_variables: {{LITELLM_MASTER_KEY: {KEY}}}\n"),
    "allowed to be none": (None, "general_settings: {dangerously_permit_weak_or_unset_master_key: true}\n"),
}


def _with_key(key: str | None, more: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LITELLM_MASTER_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("LITELLM_MASTER_KEY", key)
    return write(RIGHT + more)


@pytest.mark.parametrize("name", NO_KEY)
def test_a_master_key_that_litellm_refuses_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _with_key(*NO_KEY[name], monkeypatch)
    assert [key for _, key in findings(path)] == ["general_settings.master_key"]
    assert check(path).exit_code == 1


@pytest.mark.parametrize("name", A_KEY)
def test_a_master_key_that_litellm_takes_is_fine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(_with_key(*A_KEY[name], monkeypatch)).exit_code == 0


@pytest.mark.parametrize(
    ("file", "line", "is_bad"),
    [
        ("requirements.txt", "litellm[proxy]==1.107.0", True),
        ("constraints-prod.txt", "litellm==1.82.8 # pinned", True),
        ("Dockerfile", "FROM ghcr.io/berriai/litellm:main-v1.107.0-stable", True),
        ("pyproject.toml", 'dependencies = ["litellm[proxy]==1.107.0"]', True),
        ("requirements.txt", "litellm[proxy]>=1.106.2,!=1.107.0", False),
        ("requirements.txt", "# litellm==1.107.0 was compromised", False),
        ("requirements.txt", "litellm==1.107.01", False),
        ("requirements.txt", "not-litellm==1.107.0", False),
        ("Dockerfile", "FROM ghcr.io/berriai/litellm:main-v1.106.2", False),
    ],
)
def test_a_compromised_release_is_named_where_it_is_pinned(file: str, line: str, is_bad: bool) -> None:
    path = write(RIGHT)
    (path.parent / file).write_text(f"first\n{line}\n")
    done = check(path)
    assert done.exit_code == int(is_bad)
    assert [entry["line"] for entry in json.loads(done.stdout)["findings"]] == ([2] if is_bad else [])
    assert ("that was compromised" in done.stdout) == is_bad


@pytest.mark.parametrize("release", ["1.82.7", "1.82.8", "1.107.0"])
def test_a_compromised_release_that_is_installed_is_named(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthien_litellm_hooks.config.check.rules.version", lambda _: release)
    done = check(write(RIGHT))
    assert done.exit_code == 1
    assert f"LiteLLM {release}" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "model", "is_told"), [(5, "gemini/*", True), (5, "openai/gpt-5", False), (0, "gemini/*", False)]
)
def test_pings_on_geminis_route_are_a_warning(seconds: int, model: str, is_told: bool) -> None:
    models = f"model_list: [{{model_name: m, litellm_params: {{model: {model}}}}}]\n"
    pings = f"{NAMED}  sse_keepalive_ping_interval_seconds: {seconds}\n"
    path = write(RIGHT.replace(NAMED, pings) + models)
    expected = [(3, "litellm_settings.sse_keepalive_ping_interval_seconds")] if is_told else []
    assert findings(path, "warning") == expected
    assert check(path).exit_code == 0


PAGE = "{enabled: true}"
ENTRY = "{name: luthien, url: https://llm.example.com/luthien/ui}"
PLUGINS = "general_settings.plugins"


@pytest.mark.parametrize(
    ("ui", "plugins", "variables", "expected"),
    [
        (PAGE, f"[{ENTRY}]", {"LITELLM_SALT_KEY"}, []),
        (PAGE, f"[{ENTRY}]", set(), [(7, f"{PLUGINS}.0")]),
        (
            PAGE,
            "[{name: other, url: x}, {name: luthien, url: /luthien/ui}]",
            {"LITELLM_SALT_KEY"},
            [(7, f"{PLUGINS}.1.url")],
        ),
        (PAGE, "[{name: luthien, url: https://llm.example.com}]", {"LITELLM_SALT_KEY"}, [(7, f"{PLUGINS}.0.url")]),
        (PAGE, f"[{ENTRY.replace('luthien', 'monitor', 1)}]", {"LITELLM_SALT_KEY"}, [(7, f"{PLUGINS}.0.name")]),
        (PAGE, None, {"DATABASE_URL"}, [(5, PLUGINS)]),
        (PAGE, "[]", {"DATABASE_URL"}, []),
        (PAGE, None, set(), []),
        ("{}", f"[{ENTRY}]", {"LITELLM_SALT_KEY"}, [(7, f"{PLUGINS}.0")]),
        ("{}", None, {"DATABASE_URL"}, []),
    ],
)
def test_the_page_in_the_admin_ui_needs_an_entry_with_an_absolute_address_and_a_salt_key(
    ui: str,
    plugins: str | None,
    variables: set[str],
    expected: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LITELLM_SALT_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, "given" if name in variables else "")
    settings = f"callback_settings:\n  luthien: {{policy: {{class: noop}}, ui: {ui}}}\n"
    general = f"general_settings:\n  disable_spend_logs: false\n{f'  plugins: {plugins}' if plugins else ''}\n"
    path = write(NAMED + settings + general)
    assert findings(path, "warning") == expected
    assert check(path).exit_code == 0


ASKS = "{class: tool_rules, config: {rules: [{action: ask, commands: [git push]}]}}"
SWAPS = "{class: string_replacement, config: {replacements: [[a, b]], tool_arguments: true}}"
UV = "{class: prefer_uv}"
NAMED_BY_PLACE = "{class: 'luthien_litellm_hooks.policies.secrets:Secrets'}"
SETS = "{class: tool_rules, config: {rules: [{action: rewrite, tool: Bash, set: {args.timeout: 5}}]}}"


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([ASKS, SWAPS], [1]),
        ([ASKS, UV, "{class: noop}", "{class: secrets}"], [1, 3]),
        (["{class: tool_rules, config: {default: ask, rules: []}}", UV], [1]),
        (["{class: protect_work, config: {remote: ask}}", NAMED_BY_PLACE], [1]),
        ([ASKS, SETS], [1]),
        ([SWAPS, ASKS], []),
        ([ASKS, SWAPS.replace(", tool_arguments: true", "")], []),
        ([ASKS, "{class: secrets, config: {apply_to: request}}"], []),
        ([ASKS, "{class: secrets, enforce: false}"], []),
        ([ASKS.replace("tool_rules", "tool_rules, enforce: false"), SWAPS], []),
        ([ASKS.replace("ask", "block"), SWAPS], []),
    ],
)
def test_a_rewriting_policy_behind_an_asking_one_is_a_warning(members: list[str], told: list[int]) -> None:
    above = "callback_settings:\n  luthien:\n    policy:\n      class: serial\n      config:\n        policies:\n"
    path = write(NAMED + above + "".join(f"          - {member}\n" for member in members))
    expected = [(9 + number, f"callback_settings.luthien.policy.config.policies.{number}") for number in told]
    assert findings(path, "warning") == expected
    assert check(path).exit_code == 0


def test_the_order_counts_for_members_of_members() -> None:
    inner = f"{{class: serial, config: {{policies: [{{class: noop}}, {UV}]}}}}"
    outer = f"{{class: serial, config: {{policies: [{ASKS}, {inner}]}}}}"
    path = write(f"{NAMED}callback_settings: {{luthien: {{policy: {outer}}}}}")
    assert findings(path, "warning") == [(3, "callback_settings.luthien.policy.config.policies.1.config.policies.1")]


def test_a_config_that_is_right_is_fine() -> None:
    path = write(GOOD)
    assert json.loads(check(path).stdout) == {"file": str(path), "is_fine": True, "findings": []}
    assert check(path).exit_code == 0
    assert "fine. It sets noop." in CliRunner().invoke(app, ["check", str(path)]).stdout


def test_the_shipped_config_is_fine() -> None:
    assert check(ROOT / "litellm_config.yaml").exit_code == 0


def test_for_people_each_finding_is_a_line_that_editors_can_follow() -> None:
    path = write(BROKEN["a key that stands twice"])
    done = CliRunner().invoke(app, ["check", str(path)], env={"COLUMNS": "40"})
    assert done.stdout.splitlines() == [
        f"{path}:7: error: callback_settings.luthien.policy: duplicate key: LiteLLM uses the last one",
        f"{path}: 1 error, 0 warnings",
    ]


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (
            "litellm_settings:\n  callbacks: [luthien_litellm_hooks.luthien, my.other]\n",
            2,
            "litellm_settings.callbacks.1",
        ),
        ("litellm_settings:\n  callbacks: [luthien_litellm_hooks.luthien, otel]\n", 2, "litellm_settings.callbacks.1"),
        (NAMED + "model_list: []\nmodel_list: []\n", 4, "model_list"),
    ],
)
def test_what_a_proxy_starts_with_is_a_warning(text: str, line: int, key: str) -> None:
    path = write(f"{text}callback_settings:\n  luthien:\n    policy: {{class: noop}}\n")
    assert findings(path, "warning") == [(line, key)]
    assert check(path).exit_code == 0


WHEN = """\
callback_settings:
  luthien:
    unselected: UNSELECTED
    policy:
      class: serial
      config:
        policies:
          - {class: noop, when: {SELECTOR}}
          - class: parallel
            config: {policies: [{class: noop, when: {teams: red}}, {class: all_caps, when: {users: x}}]}
"""
SELECTORS = {"keys": "keys: agents", "headers": "headers: {x-agent: codex}"}


@pytest.mark.parametrize("selector", ["models: gpt-*", "teams: red", "users: x"])
def test_a_config_in_which_a_request_may_fit_no_policy_is_told(selector: str) -> None:
    text = NAMED + WHEN.replace("SELECTOR", selector)
    assert findings(write(text.replace("UNSELECTED", "pass")), "warning") == [(6, "callback_settings.luthien.policy")]
    assert findings(write(text.replace("UNSELECTED", "refuse")), "warning") == []
    everything = text.replace("UNSELECTED", "pass").replace("{class: all_caps, when: {users: x}}", "{class: all_caps}")
    assert findings(write(everything), "warning") == []


@pytest.mark.parametrize("selector", SELECTORS)
def test_what_a_user_can_choose_is_told(selector: str) -> None:
    path = write(NAMED + WHEN.replace("SELECTOR", SELECTORS[selector]).replace("UNSELECTED", "refuse"))
    key = f"callback_settings.luthien.policy.config.policies.0.when.{selector}"
    assert findings(path, "warning") == [(10, key)]
    assert check(path).exit_code == 0


def test_a_policy_file_is_looked_through_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy_file = tmp_path / "policy.yaml"
    policy_file.write_text("policy: {class: noop, when: {keys: agents}}\n")
    monkeypatch.setenv(POLICY_FILE_VARIABLE, str(policy_file))
    found = json.loads(check(write(NAMED)).stdout)["findings"]
    keys = {finding["key"].removeprefix(f"{policy_file}.") for finding in found if finding["level"] == "warning"}
    assert keys == {"policy", "policy.when.keys"}


@pytest.mark.parametrize("settings", ["store_model_in_db: true", ""])
def test_a_judge_may_be_in_litellms_database(settings: str) -> None:
    path = write(f"{NAMED}general_settings: {{{settings}}}\ncallback_settings:\n  luthien:\n    policy: {{{JUDGE}}}\n")
    level, other = ("warning", "error") if settings else ("error", "warning")
    assert findings(path, level) == [(6, "callback_settings.luthien.policy.config.model")]
    assert findings(path, other) == []


@pytest.mark.parametrize("served", ["judge", "jud*", "'*'"])
def test_a_judge_of_the_model_list_is_found(served: str) -> None:
    models = f"model_list: [{{model_name: {served}, litellm_params: {{model: openai/gpt}}}}]\n"
    assert findings(write(f"{NAMED}{models}callback_settings: {{luthien: {{policy: {{{JUDGE}}}}}}}\n")) == []


def test_all_models_of_a_judge_and_of_its_first_question_are_looked_for() -> None:
    models = "model_list: [{model_name: known, litellm_params: {model: openai/gpt}}]\n"
    judge = "model: known, model_group: true, models: [known, other], first: {question: {model: q, model_group: true}}"
    path = write(
        f"{NAMED}{models}callback_settings:\n  luthien:\n    policy: {{class: tool_call_judge, config: {{{judge}}}}}\n"
    )
    keys = [key.removeprefix("callback_settings.luthien.policy.config.") for _, key in findings(path)]
    assert keys == ["models.1", "first.question.model"]


def test_a_finding_in_an_included_file_has_its_own_line() -> None:
    path = write(f"{NAMED}include: [part.yaml]\n")
    part = write("callback_settings:\n  luthien:\n    polcy: {class: noop}\n", "part.yaml")
    rows = json.loads(check(path).stdout)["findings"]
    assert [(row["file"], row["line"], row["key"].rpartition(".")[2]) for row in rows] == [
        (str(part), 2, "policy"),
        (str(part), 3, "polcy"),
    ]


def test_settings_that_an_included_file_puts_aside_are_told() -> None:
    path = write(f"{GOOD}include: [part.yaml]\n")
    write("callback_settings:\n  luthien:\n    policy: {class: all_caps}\n", "part.yaml")
    assert findings(path, "warning") == [(3, "callback_settings")]


def test_a_finding_in_the_policy_file_has_its_own_line() -> None:
    policy = write("policy:\n  class: noop\n  clas: noop\n  class: noop\n", "other.yaml")
    done = json.loads(check(write(NAMED), LUTHIEN_POLICY_CONFIG=str(policy)).stdout)
    assert [(row["file"], row["line"]) for row in done["findings"]] == [(str(policy), 3), (str(policy), 4)]


@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": "include: [a.yaml, b.yaml]\nmodel_list: [1]\nx: {k: 1}", "a.yaml": "model_list: [2]\nx: {l: 2}"}
        | {"b.yaml": "model_list: [3]\ny: 1"},
        {"config.yaml": "include: [in/a.yaml]\nx: 1", "in/a.yaml": "include: [b.yaml]\nx: 2", "in/b.yaml": "x: 3"},
        {"config.yaml": "include: [in/a.yaml]\nx: 1", "in/a.yaml": "include: [c.yaml, config.yaml]", "c.yaml": "y: 3"},
        {"config.yaml": "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, 2026-01-02, 1_000, ~, yes]"},
    ],
    ids=["lists and sections", "files of files", "beside the first", "anchors"],
)
def test_a_config_is_read_as_litellm_reads_it(files: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_server, "user_config_file_path", None)  # which LiteLLM sets
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        write(text, name)
    path = Path.cwd() / "config.yaml"
    read: dict[str, Any] = asyncio.run(ProxyConfig()._get_config_from_file(str(path)))
    assert {key: value for key, value in read_source(path).values.items() if key != "include"} == read


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_opened_is_told(name: str) -> None:
    done = check(Path.cwd() / name)
    assert done.exit_code == 2
    assert "cannot be read" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"a: \x00", b"[" * 1000, b"a: &a [*a]", b"? [1]\n: 2"],
    ids=["no UTF-8", "a zero byte", "deep", "endless", "a list as a key"],
)
def test_whatever_is_in_a_file_it_is_told(content: bytes) -> None:
    path = Path.cwd() / "config.yaml"
    path.write_bytes(content)
    done = check(path)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["findings"][0]["line"] == 1
