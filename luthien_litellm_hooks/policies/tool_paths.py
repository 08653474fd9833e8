"""The paths in the arguments of a tool call that works on files."""

import re
from collections.abc import Iterator, Sequence

from luthien_litellm_hooks.policies.path_patterns import MAX_PATH_CHARACTERS
from luthien_litellm_hooks.policies.tool_kinds import (
    CONTENT_WORDS,
    EDITOR_READS,
    PATCH_KEYS,
    PATH_WORDS,
    PROSE_KEYS,
    is_editor,
)

_PATCHED = re.compile(
    r"(?m)^[ \t]*\*\*\* (?:Add File|Update File|Delete File|Move to):(.+)$"
    r"|^(?:---|\+\+\+) (?:[ab]/)?([^\t\n]+)|^rename (?:from|to) (.+)$"
)


def paths_of(texts: Sequence[tuple[str, str]], *, is_file_tool: bool) -> tuple[str, ...]:
    """The paths that the texts of a call name, each given with its key. Of a tool that writes files and names none
    under a key for one, every short text."""
    named = [text for key, text in texts if _ends_in(key, PATH_WORDS)]
    patched = [path for key, text in texts if key in PATCH_KEYS for path in patched_paths(text)]
    if is_file_tool and not named and not patched:
        named = [text for key, text in texts if key not in PROSE_KEYS and "\n" not in text]
    return tuple(dict.fromkeys(path for path in [*named, *patched] if len(path) <= MAX_PATH_CHARACTERS))


def patched_paths(patch: str) -> Iterator[str]:
    """The files that a patch changes, in Codex's format or a unified diff."""
    for match in _PATCHED.finditer(patch):
        path = next(group for group in match.groups() if group is not None).strip()
        if path != "/dev/null":
            yield path


def writes_files(name: str, texts: Sequence[tuple[str, str]], *, is_file_tool: bool) -> bool:
    """Whether the call changes files: by the tool's kind (an editor can also look), because it
    brings both a path and what is to be there, or because it brings a patch."""
    if is_editor(name):
        return [text for key, text in texts if key == "command" and text in EDITOR_READS] == []
    keys = [key for key, _ in texts]
    return (
        is_file_tool
        or (any(_ends_in(key, PATH_WORDS) for key in keys) and any(_ends_in(key, CONTENT_WORDS) for key in keys))
        or any(key in PATCH_KEYS and _PATCHED.search(text) is not None for key, text in texts)
    )


def _ends_in(key: str, words: frozenset[str]) -> bool:
    return key.rpartition("_")[2] in words
