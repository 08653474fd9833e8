"""What harms the machine itself: devices, system files, rights, processes, power."""

import re

from luthien_litellm_hooks.parsing.shell_model import Command, Word
from luthien_litellm_hooks.parsing.shell_paths import (
    is_device,
    is_system_file,
    is_system_place,
    joined_path,
    known_part,
)
from luthien_litellm_hooks.parsing.shell_writes import operands_of, written_words

WIPERS = frozenset({"shred", "srm", "wipe", "scrub", "blkdiscard", "mke2fs", "mkswap", "badblocks", "nwipe"})
POWER = frozenset({"shutdown", "reboot", "halt", "poweroff", "stop-computer", "restart-computer"})
POWER_UNITS = frozenset({"poweroff", "reboot", "halt", "kexec", "rescue", "emergency", "suspend", "hibernate"})
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
}
"""Programs that destroy when one of these words is given."""


def system_danger(command: Command) -> str | None:
    """Why `command` harms the machine; None if it does not."""
    shown = " ".join([command.program or command.name, *command.texts])[:200]
    for what in (_fork, _wiping, _writing, _rights, _power, _processes):
        if reason := what(command):
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
    is_wiper = name in WIPERS or name.startswith(("mkfs", "newfs"))
    if is_wiper and not {"--help", "--version", "-V"} & set(command.texts):
        return "a wiping tool"
    if name == "format" and any(re.fullmatch(r"[A-Za-z]:[\\/]?", text) for text in command.texts):
        return "a drive formatted"
    return "a wiping tool" if words and set(words) & set(command.texts) else None


def _writing(command: Command) -> str | None:
    written = list(written_words(command))
    if not command.is_name_resolved:
        written += [Word(text[3:]) for text in command.texts if text.startswith("of=")]
    if command.name in ("chmod", "chown", "chgrp", "setfacl", "touch", "mkdir"):
        return None
    for word in written:
        path = joined_path(command.directory.text, known_part(word) or ".")
        if is_device(path):
            return f"{word.text}, a device, overwritten"
        if is_system_file(path):
            return f"{word.text}, a system file, overwritten"
        if command.name == "dd" and not word.is_resolved and known_part(word) is None:
            return f"dd onto {word.text}, which cannot be resolved"
    return None


def _rights(command: Command) -> str | None:
    if command.name not in ("chmod", "chown", "chgrp", "setfacl", "chattr", "icacls", "takeown"):
        return None
    is_recursive = any(re.fullmatch(r"-[a-zA-Z]*R[a-zA-Z]*|--recursive|/[tTrR]", text) for text in command.texts)
    for word in operands_of(command) if is_recursive else ():
        path = joined_path(command.directory.text, known_part(word) or ".")
        if is_system_place(path):
            return f"rights changed for all of {word.text}"
    return None


def _power(command: Command) -> str | None:
    name, texts = command.name.lower(), command.texts
    if name in POWER and not {"-c", "--help", "/a", "-k", "--show"} & set(texts):
        return "the machine shut down"
    if name in ("init", "telinit") and texts[:1] in (("0",), ("6",)):
        return "the machine shut down"
    if name in ("systemctl", "loginctl") and next((text for text in texts if text[0:1] != "-"), "") in POWER_UNITS:
        return "the machine shut down"
    return None


def _processes(command: Command) -> str | None:
    texts = list(command.texts)
    if command.name == "kill":
        if texts and re.fullmatch(r"-(?:\d+|[A-Za-z]+\d*)", texts[0]):
            texts = texts[2:] if texts[0] in ("-s", "-n") else texts[1:]
        return "every process killed" if {"-1", "1"} & set(texts) else None
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


def _patterns(texts: list[str]) -> list[str]:
    """The names that `pkill` and `killall` look for."""
    valued = {"-u", "-U", "--user", "--euid", "--uid", "-g", "-G", "-P", "-t", "-s", "--signal", "-o", "-y"}
    return [
        text
        for index, text in enumerate(texts)
        if not (text.startswith("-") and text != "-") and not (index and texts[index - 1] in valued)
    ]
