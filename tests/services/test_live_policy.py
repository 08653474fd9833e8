"""The policy changes while a real proxy runs: by its file, by a signal, and at an admin's word."""

import os
import re
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from litellm.proxy import proxy_server

from luthien_litellm_hooks import ConfigError
from luthien_litellm_hooks.config.settings import POLICY_FILE_VARIABLE, load_settings
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy
from luthien_litellm_hooks.hooks.admin import SettingsSource
from luthien_litellm_hooks.testing.answers import Answer, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import Proxy, proxy_config, running_proxy
from tests.support.waiting import LIMIT_S, wait_until

LAB = {"policy": {"class": "tests.support.lab:Lab"}}
WRONG = "the settings are wrong: "


def replacing(word: str) -> dict[str, Any]:
    """Settings of a policy that puts `word` for "orchid"."""
    return {"policy": {"class": "string_replacement", "config": {"replacements": [["orchid", word]]}}}


def version(luthien: dict[str, Any]) -> str:
    """What these settings are called, in this process as in a proxy's."""
    return ActivePolicy.of(load_settings({"luthien": luthien}, {}), {}).version


def put(path: Path, text: str) -> None:
    """Writes as editors do: nobody ever sees half a file."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


@dataclass(frozen=True)
class Changing:
    """A proxy whose config is changed while it runs."""

    proxy: Proxy
    config: dict[str, Any]
    path: Path

    def write(self, luthien: dict[str, Any]) -> None:
        """Puts these settings into the config."""
        put(self.path, yaml.safe_dump({**self.config, "callback_settings": {"luthien": luthien}}))

    def reload(self) -> httpx.Response:
        return self.proxy.http.post("/luthien/reload")

    def set(self, luthien: dict[str, Any]) -> str:
        """Has them in force when it returns."""
        self.write(luthien)
        response, wanted = self.reload(), version(luthien)
        assert (response.status_code, response.json()["version"]) == (200, wanted), response.text
        return wanted

    def shown(self) -> dict[str, Any]:
        return self.proxy.http.get("/luthien/policy").json()

    def wait_for(self, wanted: str) -> None:
        wait_until(lambda: self.shown()["version"] == wanted)

    def ask(self, text: str = "say: orchid", **settings: Any) -> httpx.Response:
        body = {"model": "openai/scripted", "messages": [{"role": "user", "content": text}], **settings}
        return self.proxy.http.post("/v1/chat/completions", json=body)

    def said(self) -> str:
        return self.ask().json()["choices"][0]["message"]["content"]

    def hang_up(self) -> None:
        [process] = re.findall(r"Started server process \[(\d+)\]", self.proxy.output)
        os.kill(int(process), signal.SIGHUP)

    def complaints(self) -> int:
        return self.proxy.output.count(WRONG)


@pytest.fixture(scope="module")
def changing(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Changing]:
    """With LiteLLM's own settings in a database, which belongs to another event loop than the reading of files."""
    folder = tmp_path_factory.mktemp("live")
    config = proxy_config(provider_url, replacing("first"))
    config["general_settings"] = {"store_model_in_db": True}
    environment = {"FLAG": str(folder / "flag"), "GATE_URL": provider_url}
    with running_proxy(config, folder / "proxy", environment | prisma_environment(postgres_url)) as proxy:
        yield Changing(proxy, config, folder / "proxy" / "config.yaml")


def test_a_proxy_shows_the_version_that_it_was_started_with(changing: Changing) -> None:
    wanted = version(replacing("first"))
    shown = changing.shown()
    assert (shown["version"], shown["after_restart"], shown["error"]) == (wanted, [], None)
    assert [policy["name"] for policy in shown["policies"]] == ["string_replacement"]
    assert changing.said() == "first"


def test_a_change_of_the_file_is_in_force_soon(changing: Changing) -> None:
    changing.write(replacing("second"))
    wanted = version(replacing("second"))
    changing.wait_for(wanted)
    assert changing.said() == "second"
    assert f"the policy was changed: version {wanted} (string_replacement " in changing.proxy.output


def test_two_quick_changes_end_with_the_last(changing: Changing) -> None:
    changing.write(replacing("third"))
    changing.reload()
    changing.write(replacing("fourth"))
    changing.write(replacing("fifth"))
    changing.wait_for(version(replacing("fifth")))
    assert changing.said() == "fifth"


def test_a_wrong_file_leaves_the_policy_in_force_and_says_so_once_for_each_reading(changing: Changing) -> None:
    wanted = changing.set(replacing("right"))
    before = changing.complaints()
    changing.write({"policy": {"class": "all_cap"}})
    wait_until(lambda: changing.complaints() > before)
    shown = changing.shown()
    assert shown["version"] == wanted
    place = f"{changing.path}:4: error: callback_settings.luthien.policy.class: unknown policy 'all_cap'"
    assert shown["error"]["message"].startswith(place)
    assert changing.said() == "right"
    changing.hang_up()
    wait_until(lambda: changing.complaints() > before + 1)
    assert changing.complaints() == before + 2
    assert f"still in force is version {wanted} (string_replacement " in changing.proxy.output
    changing.set(replacing("right"))
    assert changing.shown()["error"] is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("callback_settings: {luthien: {policy: {class: noop, when: 3}}}", "callback_settings.luthien.policy.when"),
        ("callback_settings: {}", "no policy is set"),
        ("callback_settings: [", "cannot be read: ParserError"),
        ("", "cannot be read"),
        (None, "cannot be read"),
        ("callback_settings: {luthien: {policy: {class: 'tests.support.building:EndsTheProcess'}}}", "SystemExit"),
    ],
    ids=["wrong key", "no policy", "no YAML", "empty", "gone", "a policy that cannot be built"],
)
def test_an_admin_is_told_what_is_wrong_with_a_file(changing: Changing, text: str | None, complaint: str) -> None:
    wanted = changing.set(replacing("right"))
    if text is None:
        changing.path.unlink()
    else:
        put(changing.path, text)
    response = changing.reload()
    told = response.json()
    assert (response.status_code, told["version"]) == (400, wanted)
    assert complaint in told["error"]["message"]
    assert changing.said() == "right"
    changing.set(replacing("right"))


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "full"])
def test_a_request_in_flight_keeps_the_policy_that_it_began_with(
    changing: Changing, provider: ScriptedProvider, postgres_url: str, is_streamed: bool
) -> None:
    gate = Gate()
    provider.answers["gated"] = Answer([Say("one orchid"), Wait(gate), Say(", two orchid")])
    key = changing.proxy.virtual_key()
    old = changing.set({**replacing("old"), "record": {"bodies": "always"}})
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(_gated, changing.proxy, key, is_streamed)
        gate.wait_reached(timeout=LIMIT_S)
        new = changing.set({**replacing("new"), "record": {"bodies": "never"}})
        gate.open()
        assert first.result() == "one old, two old"
    assert _gated(changing.proxy, key, is_streamed) == "one new, two new"
    records = [row["metadata"]["spend_logs_metadata"]["luthien"] for row in spend_logs(postgres_url, key, 2)]
    assert [(record["version"], "final" in record) for record in records] == [(old, True), (new, False)]
    assert records[0]["policies"] != records[1]["policies"]


def _gated(proxy: Proxy, key: str, is_streamed: bool) -> str:
    """What the client with this key gets of the answer at the gate."""
    chat = proxy.openai.with_options(api_key=key).chat.completions
    question: Any = {"model": "openai/gated", "messages": [{"role": "user", "content": "hello"}]}
    if not is_streamed:
        return chat.create(**question).choices[0].message.content or ""
    chunks = chat.create(**question, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_what_is_set_with_a_policy_changes_with_it(changing: Changing) -> None:
    changing.set({**LAB, "on_block": "error", "block_status": 451, "ungoverned_routes": ["/v1/assistants"]})
    assert changing.ask(user="refuse request").status_code == 451
    assert changing.proxy.http.get("/v1/assistants").status_code != 403
    changing.set(LAB)
    assert changing.ask(user="refuse request").status_code == 200
    assert changing.proxy.http.get("/v1/assistants").status_code == 403


def test_what_needs_a_restart_is_named(changing: Changing, tmp_path: Path) -> None:
    wanted = changing.set(LAB)
    events = {"events": {"jsonl": str(tmp_path / "events.jsonl")}}
    changing.write({**LAB, **events})
    told = changing.reload().json()
    assert (told["version"], told["after_restart"], told["error"]) == (wanted, ["events"], None)
    assert "the change of events takes effect after a restart" in changing.proxy.output
    changing.set(LAB)
    assert changing.shown()["after_restart"] == []


def test_a_policy_that_is_slow_to_build_holds_nobody_up(changing: Changing) -> None:
    changing.set(replacing("quick"))
    flag = changing.path.parent.parent / "flag"
    changing.write({"policy": {"class": "tests.support.building:BuiltWhenFlagged"}})
    wait_until(flag.with_suffix(".wanted").exists)
    assert changing.said() == "quick"
    flag.touch()
    wait_until(lambda: changing.shown()["policies"][0]["name"].endswith("BuiltWhenFlagged"))
    assert changing.said() == "orchid"


def test_the_policy_is_for_admins_alone(changing: Changing) -> None:
    wanted = changing.set(replacing("first"))
    changing.write(replacing("second"))
    keys = {role: _key_of(changing.proxy, role) for role in ("internal_user", "proxy_admin_viewer", "proxy_admin")}
    refused = [{}, *({"Authorization": f"Bearer {key}"} for key in (changing.proxy.virtual_key(), "sk-none"))]
    refused += [{"Authorization": f"Bearer {keys[role]}"} for role in ("internal_user", "proxy_admin_viewer")]
    for headers in refused:
        for method, path in (("POST", "/luthien/reload"), ("GET", "/luthien/policy")):
            response = httpx.request(method, changing.proxy.url + path, headers=headers, timeout=30)
            assert response.status_code in (401, 403), (method, headers, response.text)
            assert wanted not in response.text
    admin = {"Authorization": f"Bearer {keys['proxy_admin']}"}
    assert httpx.post(changing.proxy.url + "/luthien/reload", headers=admin, timeout=30).status_code == 200


def _key_of(proxy: Proxy, role: str) -> str:
    response = proxy.http.post("/user/new", json={"user_role": role})
    assert response.is_success, response.text
    return response.json()["key"]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The config that LiteLLM believes it was started with."""
    path = tmp_path / "config.yaml"
    monkeypatch.setattr(proxy_server, "user_config_file_path", str(path))
    return path


def test_an_included_file_is_read_and_watched(config: Path) -> None:
    included = config.with_name("policy.yaml")
    put(included, yaml.safe_dump({"callback_settings": {"luthien": replacing("one")}}))
    put(config, "include: [policy.yaml]")
    source = SettingsSource({})
    assert source.read()["luthien"] == replacing("one")
    assert source.file_states() == source.stamps
    put(included, yaml.safe_dump({"callback_settings": {"luthien": replacing("two")}}))
    assert source.file_states() != source.stamps
    assert source.read()["luthien"] == replacing("two")


def test_references_to_the_environment_are_followed_as_at_a_start(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "of the environment")
    put(config, yaml.safe_dump({"callback_settings": {"luthien": {"policy": {"class": "os.environ/WORD"}}}}))
    assert SettingsSource({}).read()["luthien"] == {"policy": {"class": "of the environment"}}


def test_the_policys_own_file_is_read_and_watched(config: Path) -> None:
    put(config, "callback_settings: {luthien: {on_block: error}}")
    policy = config.with_name("policy.yaml")
    put(policy, "policy: {class: noop}")
    environment = {POLICY_FILE_VARIABLE: str(policy)}
    source = SettingsSource(environment)
    settings = load_settings(source.read(), environment)
    assert (settings.policy.class_, settings.on_block) == ("noop", "error")
    put(policy, "policy: {class: all_caps}")
    assert source.file_states() != source.stamps
    assert load_settings(source.read(), environment).policy.class_ == "all_caps"


def test_a_link_that_leads_elsewhere_is_a_change(config: Path) -> None:
    """Kubernetes changes the files of a ConfigMap by one link to a folder of them."""
    for name in ("one", "two"):
        put(config.with_name(name), yaml.safe_dump({"callback_settings": {"luthien": replacing(name)}}))
    link = config.with_name("link")
    link.symlink_to("one")
    config.symlink_to("link")
    source = SettingsSource({})
    source.read()
    assert source.file_states() == source.stamps
    other = config.with_name("other")
    other.symlink_to("two")
    other.rename(link)
    assert source.file_states() != source.stamps
    assert source.read()["luthien"] == replacing("two")


def test_a_file_that_is_gone_is_missed_once_and_seen_again_when_it_is_back(config: Path) -> None:
    source = SettingsSource({})
    with pytest.raises(ConfigError, match=f"the config in {re.escape(str(config))} cannot be read"):
        source.read()
    assert source.file_states() == source.stamps
    put(config, yaml.safe_dump({"callback_settings": {"luthien": replacing("back")}}))
    assert source.file_states() != source.stamps
