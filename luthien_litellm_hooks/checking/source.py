"""A LiteLLM config as it is written: its values, the line of each key, and what no parser tells.

LiteLLM reads its config with PyYAML, which takes the last of two equal keys in silence, and merges
what `include` names. Here both leave a trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from luthien_litellm_hooks.errors import ConfigError

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1."""

    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or that is not what it seems."""

    key: str
    message: str
    place: Place
    level: Level = "error"


@dataclass(frozen=True, slots=True)
class Source:
    """What one file says, or several that include each other. The keys of `places` are dotted, items
    of lists count from 0."""

    file: Path
    values: Mapping[str, object] = field(default_factory=dict[str, object])
    places: Mapping[str, Place] = field(default_factory=dict[str, Place])
    repeated: Sequence[tuple[str, Place]] = ()
    """Each key that stands in its mapping once more, and where. The last one counts."""
    overridden: Sequence[tuple[str, Place]] = ()
    """Each section that an included file puts another one in the place of, and where the lost one is."""
    unreadable: Sequence[Finding] = ()

    def place_of(self, key: str) -> Place:
        """Where `key` stands, or else the nearest key above it that is there."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return Place(self.file, 1)


def read_source(file: Path) -> Source:
    """The config in `file`, with all that it includes. Raises `ConfigError` if the file cannot be
    opened; whatever else is wrong is in `unreadable`."""
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
    """The YAML in `file` alone. Raises `ConfigError` if it cannot be opened."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Source(file, unreadable=[Finding("", "this is no UTF-8", Place(file, line))])
    return _Reader(file).read(text)


class _Reader:
    """Reads one file. What its nodes hold is made here and not by PyYAML, so that one bad value does
    not hide the others."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places: dict[str, Place] = {}
        self._repeated: list[tuple[str, Place]] = []
        self._unreadable: list[Finding] = []

    def read(self, text: str) -> Source:
        values: object = {}
        try:
            loader = cast(Any, yaml.SafeLoader(text))
            root = loader.get_single_node()
            values = {} if root is None else self._value(loader, root, "")
        except yaml.MarkedYAMLError as error:
            self._complain("", _in_words(error), _mark(error))
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            self._unreadable.append(Finding("", "a character that YAML does not allow", Place(self._file, line)))
        except RecursionError:
            self._complain("", "this is nested too deeply", None)
        if not isinstance(values, dict):
            self._complain("", "a config is a mapping of keys to values", None)
            values = {}
        return Source(
            self._file,
            cast(dict[str, object], values),
            self._places,
            self._repeated,
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
            self._complain(key, _in_words(error), node.start_mark)
        except ValueError as error:  # of a date that there is not, say
            self._complain(key, f"no value can be made of this: {error}", node.start_mark)
        return None

    def _members(self, loader: Any, node: yaml.MappingNode, key: str) -> Iterator[tuple[object, object]]:
        own = set[str]()
        for name_node, _ in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
            if name_node.tag == "tag:yaml.org,2002:merge":
                continue
            name = f"{key}.{name_node.value}".lstrip(".")
            if name in own:
                self._repeated.append((name, self._place(name_node.start_mark)))
            own.add(name)
        loader.flatten_mapping(node)  # merges what `<<` names
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
        """What is below a key that is set again does not count any more."""
        if key in self._places:
            for lost in [place for place in self._places if is_below(place, key)]:
                del self._places[lost]

    def _place(self, mark: Any) -> Place:
        return Place(self._file, mark.line + 1)

    def _complain(self, key: str, message: str, mark: Any) -> None:
        place = Place(self._file, 1) if mark is None else self._place(mark)
        self._unreadable.append(Finding(key, message, place))


def is_below(key: str, top: str) -> bool:
    """Whether `key` is `top`, or stands somewhere under it."""
    return key == top or key.startswith(f"{top}.")


def _in_words(error: yaml.MarkedYAMLError) -> str:
    problem = ", ".join(filter(None, [error.context, error.problem]))
    if "'\\t'" in problem:
        return "a tab, which YAML does not allow for indentation: use spaces"
    if "mapping values are not allowed here" in problem:
        return f"{problem}: is the indentation of this line, or of the one before it, as it should be?"
    return problem


def _mark(error: yaml.MarkedYAMLError) -> object:
    """Where to look: of a bracket that is not closed, where it was opened."""
    is_bracket = error.context is not None and error.context.startswith("while parsing a flow")
    return error.context_mark if is_bracket else error.problem_mark or error.context_mark


def _includes(source: Source) -> list[tuple[str, Place]]:
    given = source.values.get("include")
    entries = cast(list[object], given) if isinstance(given, list) else []
    return [
        (entry, source.place_of(f"include.{number}")) for number, entry in enumerate(entries) if isinstance(entry, str)
    ]


def _included_path(entry: str, parent: Path, root: Path) -> Path:
    """As LiteLLM finds it: beside the file that names it, or else beside the first of all."""
    beside = parent.parent / entry
    return beside if beside.exists() or not (root.parent / entry).exists() else root.parent / entry


def _merge(base: Source, included: Source) -> Source:
    """As LiteLLM does it: lists are put behind each other, of other sections the included one is taken whole."""
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
        repeated=[*base.repeated, *included.repeated],
        overridden=overridden,
        unreadable=[*base.unreadable, *included.unreadable],
    )


def _moved(key: str, by: int) -> str:
    """The key of an item of a top-level list that stands behind `by` others."""
    if not by:
        return key
    top, number, *rest = key.split(".", 2)
    return ".".join([top, str(int(number) + by), *rest])
