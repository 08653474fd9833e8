"""Settings become a policy that runs, and whatever is wrong with them is said with the key that is wrong."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks import ConfigError, Policy, PolicyExecutor
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.config.settings import POLICY_FILE_VARIABLE, build_executor, load_settings
from luthien_litellm_hooks.engine.composition import ConfiguredPolicy
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.noop import NoOp

WHERE = "callback_settings.luthien"

MODULE = '''
"""A user's policies."""

from collections import defaultdict
from pydantic import field_validator
from luthien_litellm_hooks import Policy, PolicyConfig


class GreetingConfig(PolicyConfig):
    greeting: str
    times: int = 1


class Greeting(Policy):
    Config = GreetingConfig

    def __init__(self, config):
        self.greeting = config.greeting * config.times


class Bare(Policy):
    pass


class Raises(Policy):
    def __init__(self, config):
        raise KeyError("no such model")


class TakesNothing(Policy):
    def __init__(self):
        pass


class KeepsList(Policy):
    def __init__(self, config):
        self.seen = []


class KeepsDefaultDict(Policy):
    def __init__(self, config):
        self.seen = defaultdict(int)


class SharesList(Policy):
    seen = []


class SyncHook(Policy):
    def on_content_delta(self, ctx):
        pass


class GeneratorHook(Policy):
    async def on_tool_call_complete(self, ctx):
        yield


class NoHook(Policy):
    on_request = None


class OddConfig(Policy):
    Config = dict


class FailingConfig(PolicyConfig):
    @field_validator("*", mode="before")
    def check(cls, value):
        raise KeyError("no such model")

    model: str = ""


class FailsToValidate(Policy):
    Config = FailingConfig


class NotAPolicy:
    pass


a_policy = Bare()
'''


@pytest.fixture(autouse=True)
def _user_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_policies.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "my_broken_module.py").write_text("raise OSError('no disk')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def luthien(**settings: Any) -> dict[str, object]:
    """LiteLLM's `callback_settings` with these of ours."""
    return {"luthien": settings}


def policy(cls: object, **more: Any) -> dict[str, object]:
    return luthien(policy={"class": cls, **more})


def load(callback_settings: dict[Any, object], **environment: str) -> PolicyExecutor:
    return build_executor(load_settings(callback_settings, environment))


def complaint(callback_settings: dict[Any, object], **environment: str) -> str:
    """What is said about wrong settings. LiteLLM starts without us unless it is a `RuntimeError`."""
    with pytest.raises(ConfigError) as caught:
        load(callback_settings, **environment)
    assert isinstance(caught.value, RuntimeError)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str | bytes], dict[str, str]]:
    """Writes a policy file; gives the environment that names it."""

    def write(content: str | bytes) -> dict[str, str]:
        path = tmp_path / "policy.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return {POLICY_FILE_VARIABLE: str(path)}

    return write


def member(executor: PolicyExecutor) -> ConfiguredPolicy:
    """The one policy of an executor."""
    assert isinstance(executor.composition, ConfiguredPolicy)
    return executor.composition


# What works


def test_defaults() -> None:
    executor = load(policy("noop"))
    assert type(member(executor).policy) is NoOp
    assert member(executor).name == "noop"
    assert member(executor).timeout_s == 30
    assert member(executor).on_policy_error == "block"
    assert (executor.max_items, executor.put_timeout_s) == (10_000, 30)


def test_every_setting_reaches_the_executor() -> None:
    executor = load(
        luthien(
            policy={"class": "noop", "timeout_s": 0.5, "on_policy_error": "pass"},
            queue={"max_items": 7, "put_timeout_s": 1.5},
        )
    )
    assert (member(executor).timeout_s, member(executor).on_policy_error) == (0.5, "pass")
    assert (executor.max_items, executor.put_timeout_s) == (7, 1.5)


@pytest.mark.parametrize(
    ("name", "cls"), [("noop", NoOp), ("all_caps", AllCaps), ("luthien_litellm_hooks.policies.noop:NoOp", NoOp)]
)
def test_a_shipped_policy_by_its_name(name: str, cls: type[Policy]) -> None:
    assert type(member(load(policy(name))).policy) is cls


def test_a_users_policy_gets_its_own_settings() -> None:
    executor = load(policy("my_policies:Greeting", config={"greeting": "hi ", "times": 2}))
    assert vars(member(executor).policy)["greeting"] == "hi hi "
    assert member(executor).name == "my_policies:Greeting"


def test_settings_of_others_are_none_of_ours() -> None:
    assert type(member(load({**policy("noop"), "langfuse": {"polcy": 1}})).policy) is NoOp


def test_an_empty_variable_names_no_file() -> None:
    assert type(member(load(policy("noop"), LUTHIEN_POLICY_CONFIG="")).policy) is NoOp


@pytest.mark.parametrize("settings", [{}, luthien()], ids=["no settings", "empty settings"])
def test_a_file_sets_the_policy(settings: dict[str, object], file: Callable[[str], dict[str, str]]) -> None:
    environment = file("policy: {class: all_caps, config: {tool_arguments: true}, on_policy_error: pass}")
    executor = load(settings, **environment)
    assert type(member(executor).policy) is AllCaps
    assert member(executor).on_policy_error == "pass"


def test_beside_a_file_other_settings_stay_in_callback_settings(file: Callable[[str], dict[str, str]]) -> None:
    executor = load(luthien(queue={"max_items": 7}), **file("policy: {class: noop}"))
    assert type(member(executor).policy) is NoOp
    assert executor.max_items == 7


# What is wrong is named


@pytest.mark.parametrize(
    ("settings", "key", "near"),
    [
        (luthien(polcy={"class": "noop"}), "polcy", "policy"),
        (luthien(policy={"class": "noop"}, quue={}), "quue", "queue"),
        (luthien(policy={"class": "noop"}, queue={"max_item": 1}), "queue.max_item", "max_items"),
        (luthien(policy={"clas": "noop"}), "policy.clas", "class"),
        (policy("noop", timeout=3), "policy.timeout", "timeout_s"),
        (policy("all_caps", config={"tool_argments": True}), "policy.config.tool_argments", "tool_arguments"),
        (policy("my_policies:Greeting", config={"greetng": "hi"}), "policy.config.greetng", "greeting"),
    ],
)
def test_an_unknown_key_and_the_near_one(settings: dict[str, object], key: str, near: str) -> None:
    assert f"{WHERE}.{key}: unknown key; did you mean {near!r}?" in complaint(settings)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (luthien(policy={"class": "noop"}, zzz=1), "zzz"),
        (policy("noop", zzz=1), "policy.zzz"),
        (policy("noop", config={"zzz": 1}), "policy.config.zzz"),
    ],
)
def test_an_unknown_key_with_none_near(settings: dict[str, object], key: str) -> None:
    assert complaint(settings) == f"{WHERE}.{key}: unknown key"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (luthien(), "policy"),
        (luthien(policy={}), "policy.class"),
        (policy("my_policies:Greeting"), "policy.config.greeting"),
    ],
)
def test_a_missing_key(settings: dict[str, object], key: str) -> None:
    assert complaint(settings) == f"{WHERE}.{key}: missing"


@pytest.mark.parametrize("settings", [{}, {"luthien": None}, {"other": {}}, {1: {}}])
def test_no_settings_at_all(settings: dict[Any, object]) -> None:
    said = complaint(settings)
    assert f"{WHERE}.policy" in said
    assert POLICY_FILE_VARIABLE in said


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"luthien": 3}, ""),
        ({"luthien": ["policy"]}, ""),
        (luthien(policy="noop"), ".policy"),
        (policy(5), ".policy.class"),
        (policy(None), ".policy.class"),
        (policy("noop", config=["x"]), ".policy.config"),
        (policy("noop", timeout_s="soon"), ".policy.timeout_s"),
        (policy("noop", timeout_s=None), ".policy.timeout_s"),
        (policy("noop", timeout_s=0), ".policy.timeout_s"),
        (policy("noop", timeout_s=-1), ".policy.timeout_s"),
        (policy("noop", timeout_s=math.nan), ".policy.timeout_s"),
        (policy("noop", timeout_s=math.inf), ".policy.timeout_s"),
        (policy("noop", on_policy_error="ignore"), ".policy.on_policy_error"),
        (policy("all_caps", config={"tool_arguments": "perhaps"}), ".policy.config.tool_arguments"),
        (policy("noop", when={"users": 5}), ".policy.when.users"),
        (luthien(policy={"class": "noop"}, unselected="ignore"), ".unselected"),
        (luthien(policy={"class": "noop"}, state="memory"), ".state"),
        (luthien(policy={"class": "noop"}, ui={"enabled": "maybe"}), ".ui.enabled"),
        (luthien(policy={"class": "noop"}, ui={"url": "/luthien/ui"}), ".ui.url"),
        (luthien(policy={"class": "noop"}, ui={"url": "ftp://x/luthien/ui"}), ".ui.url"),
        (luthien(policy={"class": "noop"}, ui={"port": 1}), ".ui.port"),
        (luthien(policy={"class": "noop"}, approvals={"hold_s": -1}), ".approvals.hold_s"),
        (luthien(policy={"class": "noop"}, approvals={"hold_s": 60, "valid_s": 59}), ".approvals.valid_s"),
        (luthien(policy={"class": "noop"}, approvals={"hold_s": 600}), ".approvals"),
        (luthien(policy={"class": "noop"}, approvals={"approvers": {"users": "alice"}}), ".approvals.approvers.users"),
        (luthien(policy={"class": "noop"}, approvals={"notify": [{"url": "x.org"}]}), ".approvals.notify.0.url"),
        (
            luthien(policy={"class": "noop"}, approvals={"notify": [{"url": "os.environ/X_"}]}),
            ".approvals.notify.0.url",
        ),
        (luthien(policy={"class": "noop"}, approvals={"notify": [{"url": None}]}), ".approvals.notify.0.url"),
        (luthien(policy={"class": "noop"}, queue=5), ".queue"),
        (luthien(policy={"class": "noop"}, queue={"max_items": 0}), ".queue.max_items"),
        (luthien(policy={"class": "noop"}, queue={"max_items": 1.5}), ".queue.max_items"),
        (luthien(policy={"class": "noop"}, queue={"put_timeout_s": -1}), ".queue.put_timeout_s"),
        (luthien(policy={"class": "noop"}, queue={"put_timeout_s": math.nan}), ".queue.put_timeout_s"),
    ],
)
def test_a_wrong_value(settings: dict[str, object], key: str) -> None:
    assert f"{WHERE}{key}: " in complaint(settings)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    said = complaint(luthien(policy={"class": "noop", "timeout_s": -1}, quue={}))
    assert f"{WHERE}.policy.timeout_s: " in said
    assert f"{WHERE}.quue: " in said


# The class


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("all_cap", "did you mean 'all_caps'?"),
        ("qqq", "known are noop, all_caps"),
        ("", '"module:Class"'),
        ("my_policies", '"module:Class"'),
        ("my_policies:", '"module:Class"'),
        (":Bare", "cannot be imported"),
        (".my_policies:Bare", "cannot be imported"),
        ("no_such_module:Bare", "no_such_module cannot be imported"),
        ("my_broken_module:Bare", "my_broken_module cannot be imported: OSError: no disk"),
        ("my_policies:Baer", "my_policies has no Baer"),
        ("my_policies:NotAPolicy", "not a subclass of luthien_litellm_hooks.Policy"),
        ("my_policies:a_policy", "not a subclass of luthien_litellm_hooks.Policy"),
        ("my_policies:SyncHook", "SyncHook.on_content_delta must be an `async def`"),
        ("my_policies:GeneratorHook", "GeneratorHook.on_tool_call_complete must be an `async def`"),
        ("my_policies:NoHook", "NoHook.on_request must be an `async def`"),
    ],
)
def test_a_class_that_is_no_policy(name: str, said: str) -> None:
    complained = complaint(policy(name))
    assert complained.startswith(f"{WHERE}.policy.class: ")
    assert said in complained


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", "my_policies:Raises cannot be created: KeyError: 'no such model'"),
        ("TakesNothing", "my_policies:TakesNothing cannot be created: TypeError: "),
        ("KeepsList", "KeepsList.seen is a list"),
        ("KeepsDefaultDict", "KeepsDefaultDict.seen is a defaultdict"),
        ("SharesList", "SharesList.seen is a list"),
        ("OddConfig", "Config"),
        ("FailsToValidate", "KeyError: 'no such model'"),
    ],
)
def test_a_policy_that_cannot_be_used(name: str, said: str) -> None:
    complained = complaint(policy(f"my_policies:{name}", config={"model": "x"} if name == "FailsToValidate" else {}))
    assert complained.startswith(f"{WHERE}.policy")
    assert said in complained


def test_what_belongs_to_a_request_goes_into_the_scratchpad() -> None:
    assert "ctx.scratchpad" in complaint(policy("my_policies:KeepsList"))


# The file


@pytest.mark.parametrize("beside", [{"class": "noop"}, None], ids=["policy", "empty policy"])
def test_a_policy_set_in_both_places(beside: object, file: Callable[[str], dict[str, str]]) -> None:
    environment = file("policy: {class: noop}")
    said = complaint(luthien(policy=beside), **environment)
    assert f"{WHERE}.policy" in said
    assert environment[POLICY_FILE_VARIABLE] in said
    assert POLICY_FILE_VARIABLE in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": "),
        ("- class: noop", ": "),
        ("class: noop", ".policy: missing"),
        ("polcy: {class: noop}", ".polcy: unknown key; did you mean 'policy'?"),
        ("policy: {class: noop}\nqueue: {max_items: 5}", ".queue: unknown key"),
        ("policy: noop", ".policy: "),
        ("policy: {clas: noop}", ".policy.clas: unknown key; did you mean 'class'?"),
        ("policy: {class: noop, timeout_s: -1}", ".policy.timeout_s: "),
        ("policy: {class: noop, timeout_s: .nan}", ".policy.timeout_s: "),
    ],
)
def test_a_wrong_file(content: str, said: str, file: Callable[[str], dict[str, str]]) -> None:
    environment = file(content)
    assert environment[POLICY_FILE_VARIABLE] + said in complaint({}, **environment)


@pytest.mark.parametrize(
    "content",
    ["policy: [", "policy: 2024-99-99", "policy: !!python/name:os.system", b"\xff\xfe\x00"],
    ids=["cut off", "impossible date", "Python tag", "no UTF-8"],
)
def test_a_file_that_is_no_yaml(content: str | bytes, file: Callable[[str | bytes], dict[str, str]]) -> None:
    environment = file(content)
    said = complaint({}, **environment)
    assert said.startswith(f"{POLICY_FILE_VARIABLE}: {environment[POLICY_FILE_VARIABLE]} cannot be read: ")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    assert f"{POLICY_FILE_VARIABLE}: {path} cannot be read: " in complaint({}, LUTHIEN_POLICY_CONFIG=path)


@pytest.mark.parametrize("settings", [{"luthien": 3}, {"luthien": ["queue"]}])
def test_wrong_settings_beside_a_file(settings: dict[str, object], file: Callable[[str], dict[str, str]]) -> None:
    assert f"{WHERE}: " in complaint(settings, **file("policy: {class: noop}"))


def test_the_policys_own_settings_in_a_file(file: Callable[[str], dict[str, str]]) -> None:
    said = complaint({}, **file("policy: {class: all_caps, config: {tool_argments: true}}"))
    assert "policy.config.tool_argments: unknown key; did you mean 'tool_arguments'?" in said


# A loaded policy


@pytest.mark.parametrize("name", ["greeting", "new"])
def test_a_loaded_policy_is_sealed(name: str) -> None:
    loaded = load_policy("my_policies:Greeting", {"greeting": "hi"})
    with pytest.raises(AttributeError, match=rf"Greeting\.{name} cannot be set: .*ctx\.scratchpad"):
        setattr(loaded, name, "changed")
    assert vars(loaded)["greeting"] == "hi"
    assert "new" not in vars(loaded)


def test_sealing_one_policy_leaves_the_class_open() -> None:
    load_policy("noop", {})
    fresh = NoOp()
    fresh.note = "set"
    assert vars(fresh) == {"note": "set"}


def test_where_a_policy_stands_is_up_to_the_caller() -> None:
    with pytest.raises(ConfigError, match=r"^serial\[0\]\.config\.x: unknown key$"):
        load_policy("all_caps", {"x": 1}, where="serial[0]")


@pytest.mark.parametrize(
    ("approvals", "max_hold_s", "hold_s"),
    [({}, 600, 120), ({}, 60, 30), ({"hold_s": 50}, 60, 50), ({"hold_s": 0}, 60, 0)],
)
def test_a_hold_for_a_person_ends_before_the_limit_of_all_holds(
    approvals: dict[str, float], max_hold_s: float, hold_s: float
) -> None:
    settings = load_settings(
        luthien(policy={"class": "noop"}, approvals=approvals, limits={"max_hold_s": max_hold_s}), {}
    )
    assert settings.approvals.within(settings.limits).terms.hold_s == hold_s
