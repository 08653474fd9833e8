"""Paths as shell words give them, judged without a file system."""

import re

from luthien_litellm_hooks.parsing.shell_model import Word

DRIVE = re.compile(r"[A-Za-z]:")
ONLY_GLOB = re.compile(r"(?:\.|\[[^\]]*\])*[*?](?:[*?.]|\[[^\]]*\])*")
EXPANSION = re.compile(r"[$`%]|[<>]\(")

SYSTEM_TREES = frozenset({"etc", "bin", "sbin", "boot", "lib", "lib32", "lib64", "sys", "dev", "proc", "usr", "system"})
"""Directories of / that belong to the system however deep one goes."""

SYSTEM_ROOTS = frozenset(
    {"var", "opt", "root", "home", "users", "library", "applications", "srv", "mnt", "media", "run"}
)
"""Directories of / whose own content is other people's, but whose depths are anybody's."""

EXEMPT = ("/usr/local/", "/usr/src/")
TWO_DEEP = frozenset({"var", "home", "users", "library"})
PERSONAL = frozenset({".ssh", ".gnupg", ".aws", ".config", ".kube", ".local", "documents", "desktop", "pictures"})

HARMLESS_DEVICES = frozenset(
    {"null", "zero", "full", "stdin", "stdout", "stderr", "tty", "fd", "pts", "shm", "tcp", "udp", "random", "urandom"}
)


def joined_path(directory: str, path: str) -> str:
    """`path` as seen from `directory`, without `.` and doubled slashes, and with `..` taken up where it can be."""
    path = path.replace("\\", "/")
    is_absolute = path.startswith(("/", "~")) or DRIVE.match(path) is not None
    whole = path if is_absolute or not directory else f"{directory}/{path}"
    parts: list[str] = []
    for part in whole.split("/"):
        if part == ".." and parts and parts[-1] not in ("..", "~"):
            parts.pop()
        elif part not in ("", ".") and not (part == ".." and whole.startswith("/")):
            parts.append(part)
    return "/" + "/".join(parts) if whole.startswith("/") else "/".join(parts) or "."


def is_device(path: str) -> bool:
    """Whether writing to `path` writes to a device."""
    first, _, rest = path.removeprefix("/dev/").partition("/")
    if not path.startswith("/dev/"):
        return path.lower().startswith("//./physicaldrive")
    return first not in HARMLESS_DEVICES or (not rest and first == "shm")


def is_system_file(path: str) -> bool:
    """Whether `path` lies in a tree of the system."""
    parts = path.lower().strip("/").split("/")
    if path.startswith("/dev/"):
        return is_device(path)
    if path.lower().startswith(EXEMPT):
        return False
    is_windows = DRIVE.fullmatch(parts[0]) is not None and parts[1:2] == ["windows"]
    return is_windows or (path.startswith("/") and parts[0] in SYSTEM_TREES)


def is_system_place(path: str) -> bool:
    """Whether all that is under `path` (or matches it, if it ends in a glob) is too much to change at once."""
    base = _without_globs(path)
    parts = base.lower().strip("/").split("/")
    if DRIVE.match(base):
        return len(parts) == 1 or parts[1] in ("windows", "program files") or (parts[1] == "users" and len(parts) < 4)
    if not base.startswith("/"):
        return False
    has_glob = re.search(r"[*?\[]", parts[0]) is not None
    if base == "/" or has_glob or is_system_file(base):
        return True
    if parts[0] in ("mnt", "c") and (parts[:2] == ["mnt", "c"] or parts[0] == "c"):
        return len(parts) < 4
    is_shallow = len(parts) == 1 or (parts[0] in TWO_DEEP and len(parts) == 2 and parts[1] not in ("tmp", "cache"))
    is_home_secret = parts[0] in ("home", "users") and len(parts) == 3 and parts[2] in PERSONAL
    is_database = parts[:2] == ["var", "lib"] and len(parts) == 3
    return (parts[0] in SYSTEM_ROOTS and (is_shallow or is_database)) or is_home_secret


def is_home(path: str) -> bool:
    """Whether `path` is a home directory, its parent, all its content, or one of its personal directories."""
    parts = _without_globs(path).lower().split("/")
    return parts[0].startswith("~") and (
        len(parts) == 1 or parts[1] == ".." or parts[1:] in ([name] for name in PERSONAL)
    )


def is_whole_directory(path: str, directory: str) -> bool:
    """Whether `path` is the directory of unknown name that the script runs in, all of its content, or a parent."""
    base = _without_globs(path)
    return base in (".", directory) or re.fullmatch(r"\.\.(?:/\.\.)*", base) is not None


def known_part(word: Word) -> str | None:
    """The path of `word`, with `*` for the part that is not known; None if not even its beginning is known."""
    if word.is_resolved:
        return word.text
    start = word.text[: found.start()] if (found := EXPANSION.search(word.text)) else word.text
    return f"{start}*" if start else None


def _without_globs(path: str) -> str:
    """`path` without trailing parts that match anything."""
    is_absolute = path.startswith("/")
    parts = path.strip("/").split("/")
    while parts and ONLY_GLOB.fullmatch(parts[-1]):
        parts.pop()
    return "/" + "/".join(parts) if is_absolute else "/".join(parts) or "."
