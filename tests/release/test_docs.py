"""What README and docs say is true: their code works, their commands exist, their links lead somewhere."""

import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import pytest
import typer
from litellm.integrations.custom_logger import CustomLogger
from typer.testing import CliRunner

import luthien_litellm_hooks
from luthien_litellm_hooks import Policy, __version__, testing
from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.config.policy_loading import ENTRY_POINTS, config_model, load_policy
from luthien_litellm_hooks.hooks.admin import policy_routes
from luthien_litellm_hooks.testing import Call, Say, run_policy
from luthien_litellm_hooks.testing.routes import ROUTES
from tests.support.pages import PAGES, Block, anchors, blocks, code_in_lines, commands, targets
from tests.support.proxy import KEY, ROOT

CONFIG = """\
litellm_settings:
  callbacks: [luthien_litellm_hooks.luthien]
callback_settings:
  luthien:
"""
BLOCKS = [block for page in PAGES for block in blocks(page)]
CHECKED: set[str] = set()

# By policy: its settings, a model's answer, and what the client gets of it, text and tool calls.
EXAMPLES: Mapping[str, tuple[dict[str, Any], Any, str, list[str]]] = {
    "NoShell": ({}, [Say("t"), Call("shell", "{}"), Call("search", "{}")], "t", ["search"]),
    "Whisper": ({}, "LOUD", "loud", []),
    "NoFridayDeploys": (
        {},
        [Call("deploy", "{}"), Call("test", "{}")],
        "[luthien] Nothing is deployed on Fridays. (transaction transaction-test)",
        ["test"],
    ),
    "NothingLeavesAfterTheVault": ({}, [Call("send", "{}"), Call("ls", "{}")], "", ["send", "ls"]),
    "CodeNames": ({}, "Falcon flies.", "it flies.", []),
    "OnlyTheseTools": (
        {"tools": ["read"]},
        [Call("read", "{}"), Call("pay", "{}")],
        "[luthien] That tool is not for agents. (transaction transaction-test)",
        ["read"],
    ),
    "NoTools": ({"tools": ["rm"]}, [Call("rm", "{}"), Call("ls", "{}")], "", ["ls"]),
}


def each(language: str) -> pytest.MarkDecorator:
    CHECKED.add(language)
    return pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == language], ids=str)


@each("yaml")
def test_each_config_is_accepted(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy alone is put into a config."""
    monkeypatch.setenv("LITELLM_MASTER_KEY", KEY)
    monkeypatch.setenv("APPROVALS_WEBHOOK", "https://hooks.example.com/x")
    monkeypatch.setenv("APPROVALS_SECRET", KEY)
    is_policy = block.text.startswith("policy:")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + indent(block.text, "    ") if is_policy else block.text)
    result = CliRunner().invoke(app, ["check", str(path)])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert "fine. It sets " in result.stdout


@each("python")
async def test_each_example_in_python_works(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("an_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block.text, str(block), "exec"), vars(module))
    policies = [name for name, value in vars(module).items() if is_policy_of(module, value)]
    assert policies
    for name in policies:
        settings, answer, text, calls = EXAMPLES[name]
        outcome = await run_policy(load_policy(f"{module.__name__}:{name}", settings), answer)
        assert (outcome.text, [call.name for call in outcome.tool_calls]) == (text, calls)
    for test in [value for name, value in vars(module).items() if name.startswith("test_")]:
        await test()


def is_policy_of(module: ModuleType, value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Policy) and value.__module__ == module.__name__


@each("toml")
def test_each_setting_in_toml_is_one_that_is_read(block: Block) -> None:
    """An entry point, or a provider in the config of Codex."""
    values = tomllib.loads(block.text)
    for group, entries in values.get("project", {}).get("entry-points", {}).items():
        assert group == ENTRY_POINTS
        assert {entry.partition(":")[2] for entry in entries.values()} <= EXAMPLES.keys()
    for name, provider in values.get("model_providers", {}).items():
        assert values["model_provider"] == name
        assert urlparse(f"{provider['base_url']}/{provider['wire_api']}").path == ROUTES["responses"].path
    assert values.keys() & {"project", "model_providers"}


@each("text")
def test_each_drawing_names_what_there_is(block: Block) -> None:
    names = set(re.findall(r"\w+_\w+", block.text))
    assert names <= {*dir(Policy), *dir(CustomLogger), luthien_litellm_hooks.__name__, *testing.__all__}


@each("console")
def test_each_command_that_is_shown_can_be_given(block: Block) -> None:
    given = list(commands(block))
    assert given
    for program, *words in given:
        COMMANDS[program](words)
        for path in (word.removeprefix("$PWD/").partition(":")[0] for word in words):
            if path.partition("/")[0] in ("benchmarks", "deploy", "docs", "eval", "soak", "tests"):
                assert (ROOT / path).exists(), path


def test_each_kind_of_block_is_checked() -> None:
    assert {block.language for block in BLOCKS} == CHECKED


def parse_luthien_hooks(words: Sequence[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    parameters = command.make_context(command.name, list(words)).params
    if policy := parameters.get("policy"):
        config_model(policy)


def check_make(words: Sequence[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) +\?=", makefile, re.MULTILINE))
    for word in words:
        name, is_setting, _ = word.partition("=")
        assert name in (variables if is_setting else targets)


def check_docker(words: Sequence[str]) -> None:
    options = list(pairwise(words))
    for name in [value.partition("=")[0] for option, value in options if option == "--build-arg"]:
        [file] = [value for option, value in options if option == "-f"]
        assert re.search(rf"^ARG {name}\b", (ROOT / file).read_text(), re.MULTILINE)
    for mounted in [value.partition(":")[0] for option, value in options if option == "-v"]:
        assert (ROOT / mounted.removeprefix("$PWD/")).is_file()


def check_python(words: Sequence[str]) -> None:
    assert find_spec(words[1]) if words[0] == "-m" else (ROOT / words[0]).is_file()


def check_export(words: Sequence[str]) -> None:
    [(module, name)] = [word.partition("=")[2].split(":") for word in words]
    assert callable(getattr(import_module(module), name))


def check_curl(words: Sequence[str]) -> None:
    [url] = [word for word in words if word.startswith("http")]
    nothing: Any = None
    assert urlparse(url).path in {route.path for route in policy_routes(nothing, nothing).routes}


def accept(words: Sequence[str]) -> None:
    """Of another's program."""


COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "aws": accept,
    "curl": check_curl,
    "docker": check_docker,
    "export": check_export,
    "ls": accept,
    "luthien-hooks": parse_luthien_hooks,
    "make": check_make,
    "pip": accept,
    "python": check_python,
}


NAMED = sorted(
    {code for page in PAGES for code in code_in_lines(page) if re.match(r"(luthien-hooks|make) [a-z]", code)}
)


@pytest.mark.parametrize("command", NAMED)
def test_each_command_that_the_text_names_exists(command: str) -> None:
    """With its options; what else it needs may be left out."""
    program, *words = command.split()
    if program == "make":
        check_make(words)
    else:
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    for target in targets(page):
        path, _, anchor = target.partition("#")
        if urlparse(path).scheme:
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_built_file_that_is_named_is_of_this_version(page: Path) -> None:
    named = re.findall(r"luthien_litellm_hooks-(\d[\w.]*?)(?:-py|\.tar)", page.read_text(encoding="utf-8"))
    assert set(named) <= {__version__}


def test_llms_txt_names_all_that_is_public_and_nothing_else() -> None:
    text = (ROOT / "llms.txt").read_text(encoding="utf-8").partition("## Public names")[2].partition("## More")[0]
    own, of_testing = text.split("From `luthien_litellm_hooks.testing`:")
    assert sorted(re.findall(r"`(\w+)`", own)[1:]) == sorted(luthien_litellm_hooks.__all__)
    assert sorted(re.findall(r"`(\w+)`", of_testing)) == sorted(testing.__all__)


def test_try_prints_what_the_readme_shows() -> None:
    [block] = [block for block in blocks(ROOT / "README.md") if block.text.startswith("$ luthien-hooks try")]
    for [_, *words], shown in zip(
        commands(block), re.split(r"^\$.*\n", block.text, flags=re.MULTILINE)[1:], strict=True
    ):
        printed = CliRunner().invoke(app, words, env={"COLUMNS": "100"}).stdout
        assert [line.rstrip() for line in printed.splitlines()] == shown.strip("\n").splitlines()


def test_replay_prints_what_its_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [block] = [block for block in blocks(ROOT / "docs/replaying.md") if "Every transaction" in block.text]
    [[_, *words]] = commands(block)
    printed = CliRunner().invoke(app, words, env={"COLUMNS": "100"}).stdout
    shown = block.text.splitlines()[1:]
    printed_lines = [line.rstrip() for line in printed.splitlines() if line.strip()]
    assert [_untimed(line) for line in printed_lines] == [_untimed(line) for line in shown if line.strip()]


def _untimed(line: str) -> str:
    return re.sub(r"in \d+\.\d s$", "", line)


def test_check_prints_what_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITELLM_MASTER_KEY", KEY)
    settings = "policy: {class: noop}\npolcy: {class: noop}\non_block: error\non_block: notice\n"
    Path("litellm_config.yaml").write_text(f"# Of our proxy\n{CONFIG}" + indent(settings, "    "))
    printed = CliRunner().invoke(app, ["check", "litellm_config.yaml"]).stdout
    assert printed in (ROOT / "docs/commands.md").read_text(encoding="utf-8")


def test_suggest_prints_what_its_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [block] = [block for block in blocks(ROOT / "docs/labels.md") if "policy:" in block.text]
    [[_, *words]] = commands(block)
    assert CliRunner().invoke(app, words).stdout == block.text.partition("\n")[2]


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/pictures").glob("*.svg")), ids=lambda picture: picture.stem)
def test_each_picture_is_current(picture: Path) -> None:
    """A script of the same name draws it."""
    module = f"docs.pictures.{picture.stem}"
    assert picture.read_text(encoding="utf-8") == import_module(module).picture(), f"draw it anew: python -m {module}"


def test_the_changelog_keeps_its_form() -> None:
    version = r"## \[Unreleased\]|## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d"
    kind = "### (Added|Changed|Deprecated|Removed|Fixed|Security)"
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("##")]
    assert re.fullmatch(version, headings[0])
    assert all(re.fullmatch(f"{version}|{kind}", heading) for heading in headings)
