"""A LiteLLM config: its values, the line of each key, duplicate keys, overridden sections; and its launch.

LiteLLM reads its config with PyYAML, which silently uses the last of two equal keys. It merges the files under
`include`. The launch adds the environment, and finds the plugin's settings in both.
"""

import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.config.settings import GUARDRAIL, POLICY_FILE_VARIABLE, SETTINGS_KEY, SHORT_NAME
from luthien_litellm_hooks.errors import ConfigError

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Place:
    """Line of a file, counted from 1."""

    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Error or warning about a key of a config."""

    key: str
    message: str
    place: Place
    level: Level = "error"


@dataclass(frozen=True, slots=True)
class Source:
    """Content of a config file and its included files. Keys of `places` are dotted; items of lists count from 0."""

    file: Path
    values: Mapping[str, object] = field(default_factory=dict[str, object])
    places: Mapping[str, Place] = field(default_factory=dict[str, Place])
    duplicates: Sequence[tuple[str, Place]] = ()
    """Duplicate keys with their places. The last of equal keys is used."""
    overridden: Sequence[tuple[str, Place]] = ()
    """Sections replaced by a section of an included file, and their places."""
    unreadable: Sequence[Finding] = ()

    def place_of(self, key: str) -> Place:
        """Returns the place of `key`, or of the nearest key above it."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return Place(self.file, 1)


def read_source(file: Path) -> Source:
    """Reads the config in `file` and its included files. Raises `ConfigError` if `file` cannot be opened; all other
    errors are in `unreadable`."""
    merged = read_one(file)
    pending = [(entry, place, file) for entry, place in _includes(merged)]
    seen = {file.resolve()}
    while pending:
        entry, place, parent = pending.pop(0)
        path = _included_path(entry, parent, file)
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            included = read_one(path)
        except ConfigError as error:
            missing = Finding("include", str(error), place)
            merged = replace(merged, unreadable=[*merged.unreadable, missing])
            continue
        pending += [(entry, place, path) for entry, place in _includes(included)]
        merged = _merge(merged, included)
    return merged


def read_one(file: Path) -> Source:
    """Reads the YAML in `file` alone. Raises `ConfigError` if it cannot be opened."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Source(file, unreadable=[Finding("", "not UTF-8", Place(file, line))])
    return _Reader(file).read(text)


class _Reader:
    """Reader of one file. It builds mappings and lists itself, so that PyYAML reports each bad value, not only the
    first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places: dict[str, Place] = {}
        self._duplicates: list[tuple[str, Place]] = []
        self._unreadable: list[Finding] = []

    def read(self, text: str) -> Source:
        values: object = {}
        try:
            loader = cast(Any, yaml.SafeLoader(text))
            root = loader.get_single_node()
            values = {} if root is None else self._value(loader, root, "")
        except yaml.MarkedYAMLError as error:
            self._complain("", _problem(error), _mark(error))
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            self._unreadable.append(Finding("", "a character that YAML does not allow", Place(self._file, line)))
        except RecursionError:
            self._complain("", "nested too deeply", None)
        if not isinstance(values, dict):
            self._complain("", "a config must be a mapping of keys to values", None)
            values = {}
        return Source(
            self._file,
            cast(dict[str, object], values),
            self._places,
            self._duplicates,
            unreadable=self._unreadable,
        )

    def _value(self, loader: Any, node: yaml.Node, key: str) -> object:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return dict(self._members(loader, node, key))
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return list(self._items(loader, node, key))
        try:
            return loader.construct_object(node, deep=True)
        except yaml.MarkedYAMLError as error:
            self._complain(key, _problem(error), node.start_mark)
        except ValueError as error:  # an impossible date, for instance
            self._complain(key, f"invalid value: {error}", node.start_mark)
        return None

    def _members(self, loader: Any, node: yaml.MappingNode, key: str) -> Iterator[tuple[object, object]]:
        own = set[str]()
        for name_node, _ in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
            if name_node.tag == "tag:yaml.org,2002:merge":
                continue
            name = f"{key}.{name_node.value}".lstrip(".")
            if name in own:
                self._duplicates.append((name, self._place(name_node.start_mark)))
            own.add(name)
        loader.flatten_mapping(node)  # resolves `<<`
        for name_node, value_node in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
            name = self._value(loader, name_node, key)
            inner = f"{key}.{name}".lstrip(".")
            self._forget(inner)
            self._places[inner] = self._place(name_node.start_mark)
            if isinstance(name, dict | list):
                self._complain(key, "a key must be a plain value", name_node.start_mark)
                continue
            yield name, self._value(loader, value_node, inner)

    def _items(self, loader: Any, node: yaml.SequenceNode, key: str) -> Iterator[object]:
        for number, item in enumerate(cast(list[yaml.Node], node.value)):
            inner = f"{key}.{number}".lstrip(".")
            self._places[inner] = self._place(item.start_mark)
            yield self._value(loader, item, inner)

    def _forget(self, key: str) -> None:
        """Forgets the keys below a duplicate key."""
        if key in self._places:
            for lost in [place for place in self._places if is_below(place, key)]:
                del self._places[lost]

    def _place(self, mark: Any) -> Place:
        return Place(self._file, mark.line + 1)

    def _complain(self, key: str, message: str, mark: Any) -> None:
        place = Place(self._file, 1) if mark is None else self._place(mark)
        self._unreadable.append(Finding(key, message, place))


def is_below(key: str, top: str) -> bool:
    """Tells if `key` is `top` or a key below it."""
    return key == top or key.startswith(f"{top}.")


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = ", ".join(filter(None, [error.context, error.problem]))
    if "'\\t'" in problem:
        return "a tab, which YAML does not allow for indentation: use spaces"
    if "mapping values are not allowed here" in problem:
        return f"{problem}: check the indentation of this line and of the one before it"
    return problem


def _mark(error: yaml.MarkedYAMLError) -> object:
    """Returns the place of an error; of an unclosed bracket, the place of the opening one."""
    is_bracket = error.context is not None and error.context.startswith("while parsing a flow")
    return error.context_mark if is_bracket else error.problem_mark or error.context_mark


def _includes(source: Source) -> list[tuple[str, Place]]:
    given = source.values.get("include")
    entries = cast(list[object], given) if isinstance(given, list) else []
    return [
        (entry, source.place_of(f"include.{number}")) for number, entry in enumerate(entries) if isinstance(entry, str)
    ]


def _included_path(entry: str, parent: Path, root: Path) -> Path:
    """Resolves a path as LiteLLM does: beside the including file, or else beside the first file."""
    beside = parent.parent / entry
    return beside if beside.exists() or not (root.parent / entry).exists() else root.parent / entry


def _merge(base: Source, included: Source) -> Source:
    """Merges two files as LiteLLM does: it joins lists, and replaces other sections by the included ones."""
    values, places, overridden = dict(base.values), dict(base.places), list(base.overridden)
    for key, value in included.values.items():
        if key == "include":
            continue
        known = values.get(key)
        moved = len(cast(list[object], known)) if isinstance(known, list) and isinstance(value, list) else None
        if moved is not None:
            values[key] = [*cast(list[object], known), *cast(list[object], value)]
        else:
            if key in values:
                overridden.append((key, base.place_of(key)))
            values[key] = value
            places = {name: place for name, place in places.items() if not is_below(name, key)}
        for name, place in included.places.items():
            if is_below(name, key) and not (moved is not None and name == key):
                places[_moved(name, moved or 0)] = place
    return replace(
        base,
        values=values,
        places=places,
        duplicates=[*base.duplicates, *included.duplicates],
        overridden=overridden,
        unreadable=[*base.unreadable, *included.unreadable],
    )


def _moved(key: str, by: int) -> str:
    """Returns the key of an item of a top-level list after a shift by `by` items."""
    if not by:
        return key
    top, number, *rest = key.split(".", 2)
    return ".".join([top, str(int(number) + by), *rest])


CALLBACKS = "litellm_settings.callbacks"
SECTIONS = frozenset({"callback_settings", "general_settings", "litellm_settings", "router_settings"})
"""LiteLLM's sections with similar names."""


@dataclass(frozen=True, slots=True)
class SettingsSection:
    """Section of a config with settings of the plugin."""

    key: str
    given: object


@dataclass(frozen=True, slots=True)
class LaunchEnvironment:
    """Config, environment, and the environment's policy file; None if it cannot be read."""

    source: Source
    environment: Mapping[str, str]
    policy_file: Source | None

    @classmethod
    def of(cls, source: Source, environment: Mapping[str, str]) -> "LaunchEnvironment":
        """Adds the config's `environment_variables` to `environment`, as LiteLLM does."""
        added = as_mapping(source.values.get("environment_variables"))
        own = {key: str(value) for key, value in added.items() if not str(value).startswith("os.environ/")}
        path = {**environment, **own}.get(POLICY_FILE_VARIABLE)
        try:
            policy_file = read_one(Path(path)) if path else None
        except ConfigError:  # reported when the settings are loaded
            policy_file = None
        return cls(source, {**environment, **own}, policy_file)

    def finding(self, key: str, message: str, level: Level = "error") -> Finding:
        """Returns a finding with its line in the config, or in the policy file."""
        path = self.environment.get(POLICY_FILE_VARIABLE)
        if key == POLICY_FILE_VARIABLE:
            place = self.source.place_of(f"environment_variables.{key}")
        elif path and is_below(key, path):
            place = self.policy_file.place_of(key[len(path) + 1 :]) if self.policy_file else Place(Path(path), 1)
        else:
            place = self.source.place_of(key)
        return Finding(key, message, place, level)

    def section(self, name: str) -> Mapping[str, object]:
        """Returns a section of the config; empty if it is missing or not a mapping."""
        return as_mapping(self.source.values.get(name))

    def settings(self) -> list[SettingsSection]:
        """Returns each section of the config with settings of the plugin, the callback's first."""
        return [SettingsSection(SETTINGS_KEY, self.section("callback_settings").get("luthien")), *self.guardrails()]

    def guardrails(self) -> Iterator[SettingsSection]:
        """Yields the `litellm_params` of each guardrail of the plugin."""
        for number, entry in enumerate(as_list(self.source.values.get("guardrails"))):
            params = as_mapping(as_mapping(entry).get("litellm_params"))
            if params.get("guardrail") in (GUARDRAIL, SHORT_NAME):
                yield SettingsSection(f"guardrails.{number}.litellm_params", params)

    def callbacks(self) -> list[str]:
        """Returns the names under `litellm_settings.callbacks`."""
        return as_names(self.section("litellm_settings").get("callbacks"))

    def policies(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Yields the key and spec of each policy, members of compositions included."""
        for key, _, spec in self.governed():
            yield from _with_members(key, spec)

    def governed(self) -> Iterator[tuple[str, SettingsSection, Mapping[str, object]]]:
        """Yields the key of each top-level policy, its section, and its spec."""
        for section in self.settings():
            yield f"{section.key}.policy", section, as_mapping(as_mapping(section.given).get("policy"))
        if self.policy_file:
            section = next(iter(self.settings()))
            yield f"{self.policy_file.file}.policy", section, as_mapping(self.policy_file.values.get("policy"))


@contextmanager
def launch_context(environment: Mapping[str, str]) -> Generator[None]:
    """Sets up this process as LiteLLM's when it loads policies: `environment`, and the working folder on the path."""
    before = {key: os.environ.get(key) for key, value in environment.items() if os.environ.get(key) != value}
    folder = [str(Path.cwd())] if str(Path.cwd()) not in sys.path else []
    os.environ.update({key: environment[key] for key in before})
    sys.path += folder
    try:
        yield
    finally:
        for name in folder:
            sys.path.remove(name)
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def as_mapping(given: object) -> Mapping[str, object]:
    """Returns `given`, or an empty mapping if it is not a mapping."""
    return cast(Mapping[str, object], given) if isinstance(given, Mapping) else {}


def as_list(given: object) -> list[object]:
    """Returns `given`, or an empty list if it is not a list."""
    return cast(list[object], given) if isinstance(given, list) else []


def as_names(given: object) -> list[str]:
    """Returns the names in a list. LiteLLM also takes a single name."""
    return [given] if isinstance(given, str) else [str(entry) for entry in as_list(given)]


def _with_members(key: str, given: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    spec = as_mapping(given)
    yield key, spec
    if spec.get("class") in COMPOSITIONS:
        for number, member in enumerate(as_list(as_mapping(spec.get("config")).get("policies"))):
            yield from _with_members(f"{key}.config.policies.{number}", member)
