"""When the settings are read again: on a change of their files, on SIGHUP, and when an admin asks for it."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from types import FrameType

from luthien_litellm_hooks.config import Settings, load_settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.hooks.config_file import checked_config
from luthien_litellm_hooks.hooks.in_force import InForce, LivePolicy
from luthien_litellm_hooks.hooks.observing import count_reading
from luthien_litellm_hooks.hooks.settings_source import SettingsSource
from luthien_litellm_hooks.log_lines import logger

LOOK_S = 0.5
"""How often the files are looked at. A change counts when it has lasted from one look to the next: a file
that is being written may be half a policy."""

AFTER_RESTART = ("events",)
"""The settings that stay as they were at the start."""


class PolicyReload:
    """Reads the settings again, one reading after the other, in a thread that ends with the process.

    Settings that are wrong leave what is in force as it is.
    """

    def __init__(
        self, live: LivePolicy, settings: Settings, source: SettingsSource, environment: Mapping[str, str]
    ) -> None:
        self._live = live
        self._settings = settings
        self._source = source
        self._environment = environment
        self._asked: SimpleQueue[Future[None]] = SimpleQueue()  # of the kind that a signal handler may put into

    def start(self) -> None:
        """From here on the files are watched, and SIGHUP is heard."""
        threading.Thread(target=self._work, name="luthien-policy-reload", daemon=True).start()
        if _may_take_sighup():
            signal.signal(signal.SIGHUP, self._hear)

    async def now(self) -> None:
        """Returns when the settings were read again; what came of it is in the live policy."""
        asked: Future[None] = Future()
        self._asked.put(asked)
        await asyncio.wrap_future(asked)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked.put(Future())

    def _work(self) -> None:
        looked = self._source.look()
        while True:
            asked = self._wait()
            before, looked = looked, self._source.look()
            if asked is not None and asked.set_running_or_notify_cancel():
                self._read()
                asked.set_result(None)
            elif looked == before != self._source.stamps:
                self._read()

    def _wait(self) -> Future[None] | None:
        try:
            return self._asked.get(timeout=LOOK_S)
        except Empty:
            return None

    def _read(self) -> None:
        try:
            given = self._source.read()
            with checked_config():
                result = self._replace(load_settings(given, self._environment))
        except ConfigError as error:
            result = "failed"
            self._complain(str(error))
        except BaseException as error:  # policies are built by code that is not ours
            result = "failed"
            self._complain(f"{type(error).__name__}: {error}")
            logger.exception("this is how the reading of the settings failed")
        count_reading(result)

    def _replace(self, settings: Settings) -> str:
        live = self._live
        kept = {key: getattr(self._settings, key) for key in AFTER_RESTART}
        waiting = tuple(key for key in AFTER_RESTART if getattr(settings, key) != kept[key])
        settings = settings.model_copy(update=kept)
        is_changed = settings != self._settings
        if is_changed:
            live.current = InForce.of(settings, self._environment)
            self._settings = settings
            logger.warning("the policy was changed: %s", live.current)
        elif live.complaint is not None:
            logger.warning("the settings are right again, and are those that are in force: %s", live.current)
        if waiting and waiting != live.after_restart:
            logger.warning("the change of %s takes effect after a restart", ", ".join(waiting))
        live.after_restart, live.complaint = waiting, None
        return "changed" if is_changed else "unchanged"

    def _complain(self, complaint: str) -> None:
        self._live.complaint = complaint
        logger.error("the settings are wrong: %s; still in force is %s", complaint, self._live.current)


def _may_take_sighup() -> bool:
    """Whether the signal has no other meaning here: it may be ignored, or tell that a terminal is gone."""
    if sys.platform == "win32":
        return False
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
