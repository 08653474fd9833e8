"""Deletions that go too far: of `/`, a home, a system directory, a parent, or of nobody knows what."""

import re

from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_paths import (
    is_home,
    is_system_file,
    is_system_place,
    is_whole_directory,
    joined_path,
    known_part,
)
from luthien_litellm_hooks.parsing.shell_wrappers import found_by, places_of_find
from luthien_litellm_hooks.parsing.shell_writes import operands_of

WINDOWS_DELETERS = frozenset({"rmdir", "rd", "del", "erase"})
POWERSHELL_DELETERS = frozenset({"remove-item", "ri"})
FILTERS = frozenset({"-name", "-iname", "-path", "-ipath", "-wholename", "-regex", "-iregex", "-empty"})
EXECUTED_DELETERS = frozenset({"rm", "unlink", "shred", "srm", "rmdir"})


def deletion_danger(command: Command, *, strict: bool) -> str | None:
    """Why the deletion that `command` does is dangerous; None if it does none, or a harmless one."""
    name = command.name.lower()
    if name == "find":
        return _find_danger(command, strict=strict)
    if name == "git" and strict and "clean" in command.texts and _has_flag(command, "f"):
        return f"git clean deletes files without asking ({_shown(command)})"
    if name == "mv":
        return _move_danger(command)
    if name == "rsync" and any(text.startswith("--delete") for text in command.texts):
        return _target_danger(command, operands_of(command)[-1:])
    targets = _recursive_targets(command)
    if targets is None:
        return _system_file_danger(command) if name in ("rm", "unlink", "truncate") else None
    if danger := _target_danger(command, targets):
        return danger
    return f"recursive deletion ({_shown(command)})" if strict else None


def _recursive_targets(command: Command) -> tuple[Word, ...] | None:
    """What `command` deletes with all that is in it; None if it deletes nothing so."""
    name = command.name.lower()
    if name == "rm" and (_has_flag(command, "r", "R") or _has_long_flag(command, "--recursive")):
        return operands_of(command)
    if not command.is_name_resolved and _has_flag(command, "r", "R") and _has_flag(command, "f"):
        return operands_of(command)
    lowered = [text.lower() for text in command.texts]
    if name in WINDOWS_DELETERS and "/s" in lowered:
        return tuple(word for word in command.words if not re.fullmatch(r"/[a-zA-Z]", word.text))
    if name in POWERSHELL_DELETERS and any(text.startswith("-r") for text in lowered):
        return operands_of(command)
    return None


def _has_flag(command: Command, *letters: str) -> bool:
    clusters = [text[1:] for text in _options(command) if not text.startswith("--")]
    return any(letter in cluster for cluster in clusters for letter in letters)


def _has_long_flag(command: Command, name: str) -> bool:
    """Whether the flag is given, also shortened as GNU programs allow (`--rec`)."""
    return any(len(text) > 3 and name.startswith(text) for text in _options(command))


def _options(command: Command) -> list[str]:
    texts = list(command.texts)
    end = texts.index("--") if "--" in texts else len(texts)
    return [text for text in texts[:end] if len(text) > 1 and text.startswith("-")]


def _target_danger(command: Command, targets: tuple[Word, ...]) -> str | None:
    for target in targets:
        if what := place_danger(command, target):
            return f"recursive deletion of {what} ({_shown(command)})"
    return None


def place_danger(command: Command, target: Word) -> str | None:
    """What makes `target` too much to delete; None if nothing does."""
    known = known_part(target)
    if known is None:
        return f"{target.text}, which cannot be resolved,"
    if not known:
        return None
    path = joined_path(command.directory.text, known)
    if is_home(path):
        return f"a home directory, {target.text},"
    if is_system_place(path):
        return f"the system's {target.text}" if path != "/" else "/"
    if is_whole_directory(path, command.directory.text if not command.directory.is_resolved else "."):
        return f"{target.text}, a directory that is not named,"
    return None


def _system_file_danger(command: Command) -> str | None:
    for word in operands_of(command):
        path = joined_path(command.directory.text, known_part(word) or "")
        if is_system_file(path) or is_system_place(path):
            return f"deletion of a system file, {word.text} ({_shown(command)})"
    return None


def _move_danger(command: Command) -> str | None:
    operands = operands_of(command)
    if operands and operands[-1].text == "/dev/null":
        return f"files moved to /dev/null ({_shown(command)})"
    for word in operands[:-1]:
        path = joined_path(command.directory.text, known_part(word) or "build")
        if is_system_place(path) or (is_home(path) and "/" not in path):
            return f"{word.text} moved away ({_shown(command)})"
    return None


def _find_danger(command: Command, *, strict: bool) -> str | None:
    texts = command.texts
    if not _deletes(texts):
        return None
    if strict:
        return f"recursive deletion by find ({_shown(command)})"
    if any(_narrows(texts, index) for index in range(len(texts))):
        places = tuple(word for word in found_by(command.words) if "/" in word.text and word.text.endswith("/*"))
    else:
        places = places_of_find(command.words)
    return _target_danger(command, places)


def _deletes(texts: tuple[str, ...]) -> bool:
    executed = [texts[index + 1] for index, text in enumerate(texts[:-1]) if text in ("-exec", "-execdir")]
    return "-delete" in texts or any(text.rsplit("/", 1)[-1] in EXECUTED_DELETERS for text in executed)


def _narrows(texts: tuple[str, ...], index: int) -> bool:
    """Whether a test of `find` picks some files out of all."""
    if texts[index] not in FILTERS or texts[index - 1] in ("!", "-not"):
        return False
    return texts[index] == "-empty" or (index + 1 < len(texts) and texts[index + 1].strip("*./") != "")


def _shown(command: Command) -> str:
    """`command` as the operator reads it, cut to a line."""
    text = " ".join([command.program or command.name, *command.texts])
    return text if len(text) <= 200 else f"{text[:200]}..."
