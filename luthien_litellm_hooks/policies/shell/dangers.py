"""Catalogue of dangerous commands behind `block_dangerous_commands`.

It covers deletions that go too far, foreign code run unseen, and harm to the machine: devices, system files, rights,
processes, power.
"""

import re

from luthien_litellm_hooks.policies.shell.batches import Action, actions_of_find, is_selective
from luthien_litellm_hooks.policies.shell.launchers import AWK
from luthien_litellm_hooks.policies.shell.model import Command, Script, Word
from luthien_litellm_hooks.policies.shell.network import Downloads
from luthien_litellm_hooks.policies.shell.paths import (
    is_device,
    is_home,
    is_parent_of_homes,
    is_system_file,
    is_system_place,
    is_whole_directory,
    joined_path,
    known_part,
    operands_of,
    path_from_root,
    written_words,
)


def find_danger(script: Script, *, strict: bool = False) -> str | None:
    """Returns the reason, in plain English, why `script` is dangerous; None if it is harmless.

    A quote of the script stands behind its first comma or parenthesis: `split_danger` parts them.

    With `strict`, every recursive deletion counts, for any target. An unreadable script always counts.
    """
    downloads = Downloads()
    for command in script.commands:
        reason = deletion_danger(command, strict=strict) or system_danger(command) or downloads.danger(command)
        if reason is not None:
            return reason
    return None if script.is_understood else "an unreadable command"


def split_danger(reason: str) -> tuple[str, str]:
    """Returns a reason of `find_danger` without the quotes of the script, and the quoted command."""
    kind = re.split(r", | \(", reason, maxsplit=1)[0]
    quote = reason[len(kind) :]
    return kind, quote.partition(" (")[2].removesuffix(")") or quote.strip(", ")


WINDOWS_DELETERS = frozenset({"rmdir", "rd", "del", "erase"})
POWERSHELL_DELETERS = frozenset({"remove-item", "ri"})
EXECUTED_DELETERS = frozenset({"rm", "unlink", "shred", "srm", "rmdir"})


def deletion_danger(command: Command, *, strict: bool) -> str | None:
    """Returns the reason why a deletion by `command` is dangerous; None without one."""
    name = command.name.lower()
    if name == "find":
        return _find_danger(command, strict=strict)
    if name == "git" and strict and "clean" in command.texts and _has_flag(command, "f"):
        return f"git clean deletes files without asking ({_shown(command)})"
    if name == "mv":
        return _move_danger(command)
    if name == "rsync" and any(text.startswith("--delete") for text in command.texts):
        return _target_danger(command, operands_of(command)[-1:])
    targets = recursive_targets(command)
    if targets is None:
        deleted = operands_of(command) if name in EXECUTED_DELETERS else ()
        searched = _target_danger(command, tuple(word for word in deleted if "**" in word.text))
        return searched or (_system_file_danger(command) if name in ("rm", "unlink", "truncate") else None)
    if danger := _target_danger(command, targets):
        return danger
    return f"recursive deletion ({_shown(command)})" if strict else None


def recursive_targets(command: Command) -> tuple[Word, ...] | None:
    """Returns the targets of a recursive deletion; None if `command` is not one."""
    name = command.name.lower()
    if name == "rm" and (_has_flag(command, "r", "R") or _has_long_flag(command, "--recursive")):
        return operands_of(command)
    if not command.is_name_resolved and _has_flag(command, "r", "R") and _has_flag(command, "f"):
        return operands_of(command)
    lowered = [text.lower() for text in command.texts]
    if name == "rimraf":
        return operands_of(command)
    if name in WINDOWS_DELETERS and "/s" in lowered:
        return tuple(word for word in command.words if not re.fullmatch(r"/[a-zA-Z]", word.text))
    if name in POWERSHELL_DELETERS and any(text.startswith("-r") for text in lowered):
        return operands_of(command)
    return None


def _has_flag(command: Command, *letters: str) -> bool:
    clusters = [text[1:] for text in _options(command) if not text.startswith("--")]
    return any(letter in cluster for cluster in clusters for letter in letters)


def _has_long_flag(command: Command, name: str) -> bool:
    """Tells if the flag is given, also shortened as GNU programs allow (`--rec`)."""
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
    """Returns the description of a `target` that is too much to delete; None for any other."""
    known = known_part(target)
    if known is None:
        return f"an unresolved place, {target.text},"
    if not known:
        return None
    path = path_from_root(joined_path(command.directory.text, known))
    if "/**" in path or path.startswith("**"):
        return _search_danger(command, target, path)
    if is_home(path):
        return f"a home directory, {target.text},"
    if is_system_place(path):
        return f"a directory of the system, {target.text}," if path != "/" else "/"
    if is_whole_directory(path, command.directory.text if not command.directory.is_resolved else "."):
        return f"an unnamed directory, {target.text},"
    return None


def _search_danger(command: Command, target: Word, path: str) -> str | None:
    """Returns the description of files found below a place, if these are too many to delete.

    In a directory of the system no test is narrow enough; in a home a name is, but no age or size.
    """
    base, _, name = path.partition("**")
    base = base.rstrip("/") or ("/" if path.startswith("/") else ".")
    name = name.strip("/")
    if not name.strip("*/"):
        return place_danger(command, Word(base))
    if is_system_file(base) or base == "/" or is_parent_of_homes(base):
        return f"files of the system, {target.text},"
    if is_home(base) and not is_selective(name):
        return f"files of a home directory, {target.text},"
    return None


def _system_file_danger(command: Command) -> str | None:
    for word in operands_of(command):
        path = path_from_root(joined_path(command.directory.text, known_part(word) or ""))
        if is_system_file(path) or is_system_place(path):
            return f"deletion of a system file, {word.text} ({_shown(command)})"
    return None


def _move_danger(command: Command) -> str | None:
    operands = operands_of(command)
    if operands and operands[-1].text == "/dev/null":
        return f"files moved to /dev/null ({_shown(command)})"
    for word in operands[:-1]:
        path = joined_path(command.directory.text, known_part(word) or "build")
        if "**" not in path and (is_system_place(path) or (is_home(path) and "/" not in path)):
            return f"a directory moved away, {word.text} ({_shown(command)})"
    return None


def _find_danger(command: Command, *, strict: bool) -> str | None:
    deleting = [action for action in actions_of_find(command.words) if deletes(action)]
    if strict and deleting:
        return f"recursive deletion by find ({_shown(command)})"
    return _target_danger(command, tuple(word for action in deleting for word in action.found))


def deletes(action: Action) -> bool:
    """Tells if an action of `find` deletes what it found."""
    program = action.words[0].text.rsplit("/", 1)[-1] if action.words else ""
    return action.name == "-delete" or program in EXECUTED_DELETERS


def _shown(command: Command) -> str:
    """Returns `command` for the operator, cut to a line."""
    text = " ".join([command.program or command.name, *command.texts])
    return text if len(text) <= 200 else f"{text[:200]}..."


WIPERS = frozenset({"shred", "srm", "wipe", "scrub", "blkdiscard", "nwipe"})
FORMATTERS = ("mkfs", "newfs", "mke2fs", "mkswap", "mkdosfs", "mkntfs")
READ_ONLY = frozenset({"--help", "--version", "-V", "-n", "--no-act", "--dry-run", "--no-action", "-N", "--test"})
IMAGE = re.compile(r".*\.(?:img|iso|raw|qcow2|vmdk|vdi|vhdx?|bin|ext[234]|fat|squashfs|erofs|swap|dmg)|.*swapfile.*")
POWER = frozenset(
    {"shutdown", "reboot", "halt", "poweroff", "stop-computer", "restart-computer", "pm-suspend", "pm-hibernate"}
    | {"pm-suspend-hybrid", "openrc-shutdown", "runit-init", "systemctl-soft-reboot"}
)
POWER_UNITS = frozenset(
    {"poweroff", "reboot", "soft-reboot", "halt", "kexec", "rescue", "emergency", "suspend", "hibernate"}
    | {"hybrid-sleep", "suspend-then-hibernate", "exit"}
)
POWER_TARGETS = frozenset(
    {"poweroff", "reboot", "soft-reboot", "halt", "kexec", "rescue", "emergency", "suspend", "hibernate", "shutdown"}
    | {"hybrid-sleep", "sleep", "runlevel0", "runlevel1", "runlevel6", "exit"}
)
POWER_METHOD = re.compile(r"(?:.*\.)?(?:PowerOff|Reboot|Halt|KExec|Suspend|Hibernate|Shutdown)(?:WithFlags)?")
INTERPRETERS = re.compile(r"(?:python|pypy)[\d.]*|perl|ruby|node|php")
ALL_PROCESSES = frozenset({"", ".", ".*", "*", ".+", "^", "$", "^.*", "^.*$"})
WIPING_CALLS = {
    "wipefs": ("-a", "--all", "-af", "-fa"),
    "sgdisk": ("-Z", "--zap-all", "-o", "--clear", "-z", "--zap"),
    "parted": ("mklabel", "mktable", "rm"),
    "hdparm": ("--security-erase", "--security-erase-enhanced", "--trim-sector-ranges"),
    "nvme": ("format", "sanitize"),
    "cryptsetup": ("luksErase", "erase", "luksFormat", "reencrypt"),
    "diskutil": ("eraseDisk", "eraseVolume", "zeroDisk", "secureErase", "randomDisk"),
    "zpool": ("destroy", "labelclear"),
    "crontab": ("-r",),
    "vssadmin": ("delete",),
    "diskpart": ("/s", "clean"),
    "badblocks": ("-w", "-wsv", "-wv", "-ws", "-svw", "-sw"),
    "sfdisk": ("--delete", "--wipe"),
    "mdadm": ("--zero-superblock",),
}
"""Programs that destroy with one of these words."""


def system_danger(command: Command) -> str | None:
    """Returns the reason why `command` harms the machine; None if it does not."""
    for what in (_fork, _wiping, _writing, _rights, _power, _processes):
        if reason := what(command):
            shown = " ".join([command.program or command.name, *command.texts])[:200]
            return f"{reason} ({shown})" if shown else reason
    return None


def _fork(command: Command) -> str | None:
    sources = (command.piped_from, *command.fed_by)
    if command.is_self_call and (
        command.is_in_background or any(source is not None and source.is_self_call for source in sources)
    ):
        return "a fork bomb"
    if command.program.removeprefix("./") in ("$0", "${0}") and (command.is_in_background or command.piped_from):
        return "a fork bomb"
    code = " ".join(command.texts) if INTERPRETERS.fullmatch(command.name) else ""
    if re.search(r"\bfork\b", code) and re.search(r"\b(?:while|loop|until|for)\b", code):
        return "a fork bomb"
    return None


def _wiping(command: Command) -> str | None:
    name = command.name.lower()
    words = WIPING_CALLS.get(name)
    if name in WIPERS and not {"--help", "--version", "-V"} & set(command.texts):
        return "a wiping tool"
    if name.startswith(FORMATTERS) and not READ_ONLY & set(command.texts) and _formats_device(command):
        return "a wiping tool"
    if words and {"-n", "--no-act", "--dry-run", "--pretend"} & set(command.texts):
        return None
    if name == "format" and any(re.fullmatch(r"[A-Za-z]:[\\/]?", text) for text in command.texts):
        return "a drive formatted"
    return "a wiping tool" if words and set(words) & set(command.texts) else None


def _formats_device(command: Command) -> bool:
    """Tells if `mkfs` gets a device, or no file with the name of an image."""
    operands = operands_of(command)
    is_device_named = any(word.text.startswith("/dev/") or not word.is_resolved for word in operands)
    return is_device_named or not any(IMAGE.fullmatch(word.text) for word in operands)


def _writing(command: Command) -> str | None:
    written = list(written_words(command))
    if not command.is_name_resolved:
        written += [Word(text[3:]) for text in command.texts if text.startswith("of=")]
    if command.name in ("chmod", "chown", "chgrp", "setfacl", "touch", "mkdir"):
        return None
    for word in written:
        path = path_from_root(joined_path(command.directory.text, known_part(word) or "."))
        if command.name == "dd" and path.startswith("/var/log/"):
            return f"a log of the system overwritten, {word.text}"
        if command.name == "ln" and re.fullmatch(r"/usr/(?:lib|share)\w*/.+/[^/]*", path):
            continue
        if is_device(path):
            return f"a device overwritten, {word.text}"
        if is_system_file(path):
            return f"a system file overwritten, {word.text}"
        if command.name == "dd" and not word.is_resolved and known_part(word) is None:
            return f"dd onto an unresolved place, {word.text}"
    return None


def _rights(command: Command) -> str | None:
    if command.name not in ("chmod", "chown", "chgrp", "setfacl", "chattr", "icacls", "takeown"):
        return None
    is_recursive = any(re.fullmatch(r"-[a-zA-Z]*R[a-zA-Z]*|--recursive|/[tTrR]", text) for text in command.texts)
    for word in operands_of(command):
        path = path_from_root(joined_path(command.directory.text, known_part(word) or "."))
        base, _, name = path.partition("/**")
        if name.strip("/*") or not (is_recursive or "/**" in path):
            continue
        if is_system_place(base or "/"):
            return f"rights changed for a whole directory of the system, {word.text}"
    return None


def _power(command: Command) -> str | None:
    name, texts = command.name.lower(), command.texts
    harmless = {"-c", "--help", "--version", "/a", "-k", "--show", "-w", "--wtmp-only"}
    if name in POWER and not (harmless - ({"-w"} if name == "shutdown" else set[str]())) & set(texts):
        return "the machine shut down"
    if name == "kexec" and {"-e", "--exec"} & set(texts):
        return "the machine restarted"
    if name == "rtcwake" and not {"no", "show", "disable", "-h", "--help"} & set(texts) and texts:
        return "the machine put to sleep"
    if name in ("busctl", "dbus-send", "gdbus", "qdbus") and any(POWER_METHOD.fullmatch(text) for text in texts):
        return "the machine shut down"
    if name == "osascript" and re.search(r"\b(?:shut down|restart)\b", " ".join(texts)):
        return "the machine shut down"
    if name == "ipmitool" and "power" in texts and {"off", "reset", "cycle", "soft"} & set(texts):
        return "the machine shut down"
    if name in ("init", "telinit") and texts[:1] in (("0",), ("6",)):
        return "the machine shut down"
    verbs = [text for text in texts if text[:1] != "-"] if name in ("systemctl", "loginctl") else []
    if verbs and verbs[0] in POWER_UNITS:
        return "the machine shut down"
    units = [text.removesuffix(".target") for text in verbs[1:] if text.endswith(".target") or verbs[0] == "isolate"]
    if verbs[:1] in (["isolate"], ["start"], ["restart"]) and set(units) & POWER_TARGETS:
        return "the machine shut down"
    return None


def _processes(command: Command) -> str | None:
    texts = list(command.texts)
    if command.name == "kill":
        return _kill(command)
    if command.name == "fuser" and _has_flag(command, "k") and _has_flag(command, "m", "c"):
        places = [joined_path(command.directory.text, known_part(word) or ".") for word in operands_of(command)]
        return "every process of a file system killed" if any(map(is_system_place, places)) else None
    if command.name == "killall5":
        return "every process killed"
    if command.name not in ("pkill", "killall"):
        return None
    patterns = _patterns(texts)
    has_owner = any(text in ("-u", "-U", "--user", "--euid", "--uid") for text in texts)
    is_broad = has_owner or "-v" in texts or "--inverse" in texts
    if (not patterns and is_broad) or any(pattern in ALL_PROCESSES for pattern in patterns):
        return "every process killed"
    return None


SELECTING = frozenset({"grep", "egrep", "fgrep", "rg", "ag", "head", "tail", "sed", "jq", "fzf"})
SELECTION_OF_PS = re.compile(r"-[a-zA-Z]*[pCutgsUGq]|--(?:pid|ppid|user|User|group|Group|tty|sid)(?:=.*)?|-?\d+")


def _kill(command: Command) -> str | None:
    """Returns the reason why `kill` reaches too many processes; signal 0 and `-l` only ask."""
    texts = list(command.texts)
    if texts and (option := re.fullmatch(r"-(\d+|[A-Za-z]+\d*)", texts[0])):
        signal = texts[1] if texts[0] in ("-s", "-n") and len(texts) > 1 else option[1]
        if signal in ("0", "l", "L", "EXIT"):
            return None
        texts = texts[2:] if texts[0] in ("-s", "-n") else texts[1:]
    if {"-1", "1"} & set(texts) or any(re.fullmatch(r"(?:\[[\d-]+\]|\*|\?)+", text) for text in texts):
        return "every process killed"
    return "every process killed" if _lists_processes(command) else None


def _lists_processes(command: Command) -> bool:
    """Tells if the numbers of `kill` come from a list of all processes, without a program that picks some."""
    waiting, seen = list(command.built_from), set[int]()
    is_listed = False
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if current.name in SELECTING or (current.name in AWK and _picks(current)):
            return False
        if current.name == "ps":
            if any(SELECTION_OF_PS.fullmatch(text) for text in current.texts):
                return False
            is_listed = True
        if current.name == "pgrep":
            if any(pattern not in ALL_PROCESSES for pattern in _patterns(list(current.texts))):
                return False
            is_listed = True
        waiting += [*current.fed_by, *current.built_from]
    return is_listed


def _picks(command: Command) -> bool:
    """Tells if an awk program has a condition on its lines, other than their number."""
    code = next((text for text in command.texts if "{" in text or "/" in text), "")
    return re.search(r"/[^/]+/|[=!~]=|~|\bindex\(|[<>]", re.sub(r"\bNR\s*(?:[<>!=]=?)\s*\d+", "", code)) is not None


def _patterns(texts: list[str]) -> list[str]:
    """Returns the names for which `pkill` and `killall` look."""
    valued = {"-u", "-U", "--user", "--euid", "--uid", "-g", "-G", "-P", "-t", "-s", "--signal", "-o", "-y"}
    return [
        text
        for index, text in enumerate(texts)
        if not (text.startswith("-") and text != "-") and not (index and texts[index - 1] in valued)
    ]
