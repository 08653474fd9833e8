"""Paths in shell commands: written files, deleted files, places of the system.

Paths are judged without a file system.
"""

import re
from collections.abc import Iterator, Sequence

from luthien_litellm_hooks.policies.shell.model import Command, Word
from luthien_litellm_hooks.policies.shell.streams import output_words

DRIVE = re.compile(r"[A-Za-z]:")
ONLY_GLOB = re.compile(r"(?:\.|\[[^\]]*\])*[*?](?:[*?.]|\[[^\]]*\])*")
EXPANSION = re.compile(r"[$`%]|[<>]\(")

SYSTEM_TREES = frozenset({"etc", "bin", "sbin", "boot", "lib", "lib32", "lib64", "sys", "dev", "proc", "usr", "system"})
"""Directories of / belonging to the system at any depth."""

SYSTEM_ROOTS = frozenset(
    {"var", "opt", "root", "home", "users", "library", "applications", "srv", "mnt", "media", "run"}
)
"""Directories of / with shared content at the top, and anybody's files further down."""

EXEMPT = ("/usr/local/", "/usr/src/")
TWO_DEEP = frozenset({"var", "home", "users", "library"})
PERSONAL = frozenset({".ssh", ".gnupg", ".aws", ".config", ".kube", ".local", "documents", "desktop", "pictures"})

HARMLESS_DEVICES = frozenset(
    {"null", "zero", "full", "stdin", "stdout", "stderr", "tty", "fd", "pts", "shm", "tcp", "udp", "random", "urandom"}
)


def joined_path(directory: str, path: str) -> str:
    """Joins `path` to `directory`, without `.` and duplicate slashes, and with `..` resolved if possible."""
    path = path.replace("\\", "/")
    is_absolute = path.startswith(("/", "~")) or DRIVE.match(path) is not None
    whole = path if is_absolute or not directory else f"{directory}/{path}"
    parts: list[str] = []
    for part in whole.split("/"):
        if part == ".." and parts and parts[-1] not in ("..", "~"):
            parts.pop()
        elif part not in ("", ".") and not (part == ".." and whole.startswith("/")):
            parts.append(part)
    if whole.startswith("/"):
        return "/" + "/".join(parts)
    is_folder_named_tilde = parts[:1] != [] and parts[0].startswith("~") and not whole.startswith("~")
    return ("./" if is_folder_named_tilde else "") + "/".join(parts) or "."


CLIMB = re.compile(r"(?:\.\./){3,}((?:etc|usr|boot|sbin|root|home|proc|sys|var|dev|opt|bin|lib|lib64)(?:/.*)?)")


def path_from_root(path: str) -> str:
    """Returns `/etc` for `../../../etc`: a path that climbs so far to such a name means the system's directory."""
    climb = CLIMB.fullmatch(path)
    return f"/{climb[1]}" if climb else path


def is_parent_of_homes(path: str) -> bool:
    """Tells if `path` holds the homes of all users."""
    return path.lower().rstrip("/") in ("/home", "/users", "/root")


def is_device(path: str) -> bool:
    """Tells if writing to `path` writes to a device."""
    first, _, rest = path.removeprefix("/dev/").partition("/")
    if not path.startswith("/dev/"):
        return path.lower().startswith("//./physicaldrive")
    return first not in HARMLESS_DEVICES or (not rest and first == "shm")


def is_system_file(path: str) -> bool:
    """Tells if `path` lies in a tree of the system."""
    parts = path.lower().strip("/").split("/")
    if path.startswith("/dev/"):
        return is_device(path)
    if path.lower().startswith(EXEMPT):
        return False
    is_windows = DRIVE.fullmatch(parts[0]) is not None and parts[1:2] == ["windows"]
    return is_windows or (path.startswith("/") and parts[0] in SYSTEM_TREES)


def is_system_place(path: str) -> bool:
    """Tells if everything below `path`, or matching its final glob, is too much to change at once."""
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
    """Tells if `path` is a home directory, its parent, all its content, or one of its personal directories."""
    parts = _without_globs(path).lower().split("/")
    return parts[0].startswith("~") and (
        len(parts) == 1 or parts[1] == ".." or parts[1:] in ([name] for name in PERSONAL)
    )


def is_whole_directory(path: str, directory: str) -> bool:
    """Tells if `path` is the unnamed working directory of the script, all of its content, or a parent."""
    base = _without_globs(path)
    return base in (".", directory) or re.fullmatch(r"\.\.(?:/\.\.)*", base) is not None


REPOSITORY = re.compile(r"(?:[/~].*/)?\.(?:git|hg|svn|jj)(?:/(?:objects|refs|logs|index|HEAD|store))?")
SHARED_ROOTS = frozenset(
    {"workspace", "workspaces", "app", "repo", "repos", "code", "project", "projects", "src", "testbed"}
)
"""Directories of / that hold projects in containers."""
SERVED_ROOTS = (("usr", "src"), ("var", "www"), ("srv",), ("opt",), ("mnt", "data"))
COLLECTIONS = frozenset(
    {
        "src",
        "source",
        "code",
        "projects",
        "repos",
        "git",
        "github",
        "github.com",
        "gitlab.com",
        "dev",
        "develop",
        "work",
    }
    | {"workspace", "workspaces", "documents", "desktop", "sites", "go"}
)
"""Directories of a home that hold projects."""
SOURCES = frozenset(
    {"src", "source", "sources", "lib", "app", "apps", "packages", "scripts", "server", "client", "backend", "frontend"}
    | {"docs", "content", "data", "database", "db", "migrations", "uploads", "models"}
)
"""Directories of a project that hold its sources or its data."""
DISPOSABLE = frozenset(
    {"build", "builds", "dist", "out", "output", "outputs", "target", "bin", "obj", "modules", "coverage", "htmlcov"}
    | {"cache", "caches", "pycache", "tmp", "temp", "venv", "env", "log", "logs", "backup", "bak", "old", "copy"}
    | {"scratch", "sandbox", "trash", "results", "reports", "artifacts", "generated", "gen", "downloads", "screenshots"}
    | {"library", "test", "clone", "miniconda3", "anaconda3", "snap", "worktree", "worktrees"}
)
"""Words in the names of directories that can be made again."""
TEMPORARY = re.compile(r"/(?:private/)?(?:tmp|var/tmp|var/folders|dev/shm|run)(?:/|$)")


def is_working_tree(path: str) -> bool:
    """Tells if `path` is all of the script's directory or above it, or a repository's own data (`.git`)."""
    base = _without_globs(path)
    is_repository = REPOSITORY.fullmatch(base) is not None and not TEMPORARY.match(base)
    return is_whole_directory(path, ".") or is_repository


def is_project(path: str) -> bool:
    """Tells if `path` is likely a whole project: near a home or a root of projects, without the name of a directory
    that can be made again."""
    base = _without_globs(path)
    parts = base.replace("\\", "/").lower().strip("/").split("/")
    if _is_disposable(base):
        return False
    if base.startswith("/") and (parts[0] in SHARED_ROOTS or parts[:2] == ["usr", "src"]):
        return len(parts) <= (1 if parts[0] in ("app", "repo", "src", "testbed", "project", "code") else 2)
    if any(tuple(parts[: len(root)]) == root for root in SERVED_ROOTS) and base.startswith("/"):
        return len(parts) <= 1 + max(len(root) for root in SERVED_ROOTS if tuple(parts[: len(root)]) == root)
    depth = _depth_below_home(base, parts)
    below = parts[len(parts) - depth :]
    is_near = len(below) <= 2 + sum(part in COLLECTIONS for part in below[:-1])
    is_source = below[-1:] and below[-1] in SOURCES and not any(map(_is_disposable, below))
    return bool(below) and (is_near or bool(is_source))


def is_within(place: str, path: str) -> bool:
    """Tells if the directory `place` is `path` or lies below it, and cannot be made again."""
    base = _without_globs(path).rstrip("/")
    return (place == base or place.startswith(f"{base}/")) and not _is_disposable(place)


def _is_disposable(path: str) -> bool:
    """Tells if a directory is temporary, hidden or generated, by its place or a word in its name."""
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return (
        TEMPORARY.match(path) is not None
        or name.startswith(".")
        or not DISPOSABLE.isdisjoint(re.split(r"[-_. \d]+", name))
    )


def _depth_below_home(base: str, parts: Sequence[str]) -> int:
    """Returns the number of parts below a home; 0 outside of one, and in its hidden directories."""
    if base.startswith("~"):
        above = 1
    elif base.startswith("/") and parts[0] in ("home", "users"):
        above = 2
    elif base.startswith("/root/"):
        above = 1
    elif DRIVE.match(base) and parts[1:2] == ["users"]:
        above = 3
    else:
        return 0
    below = parts[above:]
    return 0 if not below or below[0].startswith(".") else len(below)


def known_part(word: Word) -> str | None:
    """Returns the path of `word`, with `*` for the unknown part; None if even its beginning is unknown."""
    if word.is_resolved:
        return word.text
    start = word.text[: found.start()] if (found := EXPANSION.search(word.text)) else word.text
    return f"{start}*" if start else None


def _without_globs(path: str) -> str:
    """Returns `path` without trailing parts that match anything."""
    is_absolute = path.startswith("/")
    parts = path.strip("/").split("/")
    while parts and ONLY_GLOB.fullmatch(parts[-1]):
        parts.pop()
    return "/" + "/".join(parts) if is_absolute else "/".join(parts) or "."


WRITING_OPERATORS = frozenset({">", ">>", ">|", "&>", "&>>", ">&", "<>"})
LAST_IS_WRITTEN = frozenset({"cp", "mv", "install", "ln", "rsync", "scp"})
ALL_ARE_WRITTEN = frozenset(
    {"tee", "touch", "truncate", "rm", "unlink", "rmdir", "shred", "srm", "mkdir", "chattr", "sponge", "ed", "ex"}
)
REST_IS_WRITTEN = frozenset({"chmod", "chown", "chgrp", "setfacl"})
VALUED = frozenset(
    {"-s", "--size", "-m", "--mode", "-o", "--owner", "-g", "--group", "-S", "--suffix", "-e", "-n", "-r"}
)


def written_paths(commands: Sequence[Command]) -> tuple[str, ...]:
    """Returns the paths `commands` write, create, move onto, change the mode of or delete; `~` stays.

    A path is relative to the script's start. An unresolved path stays as it was written.
    """
    return tuple(dict.fromkeys(path for command in commands for path in _written_by(command)))


SUBSTITUTION = re.compile(r"\$\([^()]*\)|`[^`]*`")


def _written_by(command: Command) -> Iterator[str]:
    for word in (*written_words(command), *deleted_words(command), *output_words(command)):
        is_known = word.is_resolved
        path = joined_path(command.directory.text, word.text) if is_known else SUBSTITUTION.sub("$_", word.text)
        yield _searched_place(path) if "**" in path else path


def _searched_place(path: str) -> str:
    """Returns the path of files found below a place as if they lay directly in it: a rule asks for their name or their
    place, and would else meet every search."""
    base, _, name = path.partition("**")
    name = name.strip("/?*") and name.strip("/")
    place = base.rstrip("/") or ("/" if base else ".")
    if name:
        return f"{base}{name}"
    is_broad = place in (".", "/", "~") or place.startswith("$") or is_parent_of_homes(place)
    return place if is_broad else path


def redirected_words(command: Command) -> Iterator[Word]:
    for redirect in command.redirects:
        is_descriptor = redirect.operator == ">&" and redirect.target.text.rstrip("-").isdigit()
        if redirect.operator in WRITING_OPERATORS and not is_descriptor:
            yield redirect.target


def written_words(command: Command) -> Iterator[Word]:
    """Yields the arguments to which `command` writes, and the targets of its redirections, without pure deletions."""
    yield from redirected_words(command)
    name = command.name
    if name in LAST_IS_WRITTEN:
        target, operands = _target_directory(command), operands_of(command)
        yield from [target] if target else operands[-1:] if len(operands) > 1 else []
    elif name == "dd":
        yield from (Word(word.text[3:], word.is_resolved) for word in command.words if word.text.startswith("of="))
    elif name in REST_IS_WRITTEN or (
        name in ("sed", "perl") and any(re.match(r"-(?![MmIE])[a-zA-Z]*i|--in-place", text) for text in command.texts)
    ):
        operands = operands_of(command)
        yield from operands[1:] or operands
    elif name in ("curl", "wget"):
        yield from _saved(command)
    elif name in ALL_ARE_WRITTEN and name not in DELETING:
        yield from operands_of(command)


DELETING = frozenset({"rm", "unlink", "rmdir", "shred", "srm"})


def deleted_words(command: Command) -> Iterator[Word]:
    """Yields the arguments deleted or moved away by `command`."""
    if command.name in DELETING:
        yield from operands_of(command)
    elif command.name == "mv":
        yield from operands_of(command)[:-1] or operands_of(command)


def operands_of(command: Command) -> tuple[Word, ...]:
    """Returns the words except options."""
    found: list[Word] = []
    valued = frozenset[str]() if command.name in DELETING else _valued(command.name)
    is_value = has_ended = False
    for word in command.words:
        if has_ended or (not is_value and (not word.text.startswith("-") or word.text == "-")):
            found.append(word)
        has_ended = has_ended or word.text == "--"
        is_value = not is_value and not has_ended and word.text in valued
    return tuple(found)


def _valued(name: str) -> frozenset[str]:
    return VALUED if name in ("truncate", "install", "touch", "mkdir") else frozenset()


def _target_directory(command: Command) -> Word | None:
    for index, word in enumerate(command.words):
        if word.text in ("-t", "--target-directory") and command.name != "rsync":
            return command.words[index + 1] if index + 1 < len(command.words) else None
        if word.text.startswith("--target-directory="):
            return Word(word.text.partition("=")[2], word.is_resolved)
    return None


def _saved(command: Command) -> Iterator[Word]:
    """Yields the files saved by `curl -o` and `wget -O`."""
    options = ("-o", "--output") if command.name == "curl" else ("-O", "--output-document")
    for index, word in enumerate(command.words):
        is_cluster = re.fullmatch(rf"-[a-zA-Z]*{options[0][1]}", word.text) is not None
        if (is_cluster or word.text == options[1]) and index + 1 < len(command.words):
            yield command.words[index + 1]
        elif word.text.startswith(f"{options[1]}="):
            yield Word(word.text.partition("=")[2], word.is_resolved)
