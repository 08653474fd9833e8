"""Modules that a proxy loads when it starts: those that its settings ask for, before the first request."""

import json

from tests.unit.test_layers import run_python

HEAVY = (
    *("luthien_litellm_hooks.monitor.app", "luthien_litellm_hooks.policies.judges"),
    "luthien_litellm_hooks.policies.shell",
    *("jsonschema", "sqlglot", "tree_sitter"),
)
START = f"""
import json, litellm, sys
from litellm.proxy import proxy_server
litellm.callback_settings = {{"luthien": {{"policy": {{"class": "noop"}}}}}}
from luthien_litellm_hooks import luthien

def build(name, **config):
    from luthien_litellm_hooks.config.settings import build_executor, load_settings
    build_executor(load_settings({{"luthien": {{"policy": {{"class": name, "config": config}}}}}}, {{}}), {{}})

def loaded():
    return [name for name in {HEAVY!r} if name in sys.modules]
"""


def test_a_start_loads_what_the_settings_ask_for_and_no_more() -> None:
    after_rules = "build('block_dangerous_commands'), loaded()"
    after_sql = "build('tool_rules', rules=[{'action': 'block', 'sql': 'DROP'}]), loaded()"
    steps = json.loads(run_python(f"{START}\nprint(json.dumps([loaded(), {after_rules}, {after_sql}]))"))
    parsers = ["luthien_litellm_hooks.policies.shell", "tree_sitter"]
    assert steps == [[], None, parsers, None, ["luthien_litellm_hooks.policies.shell", "sqlglot", "tree_sitter"]]
