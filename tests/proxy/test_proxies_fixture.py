"""A proxy of the tests that has ended by itself fails the test that next asks for it, and that test alone."""

import signal
from pathlib import Path

import psutil
import pytest

from tests.support.proxy import Proxies
from tests.support.waiting import wait_until


def test_a_proxy_that_has_crashed_is_told_of_once(provider_url: str, tmp_path: Path) -> None:
    proxies = Proxies(provider_url, tmp_path)
    try:
        process = psutil.Process(proxies.get(None).process)
        assert "tests.support.preloaded" in process.cmdline(), "it need not import LiteLLM anew"
        process.send_signal(signal.SIGSEGV)
        # While its other threads end, its code is not there yet.
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE and process.num_threads() == 1)
        with pytest.raises(AssertionError, match=r"ended by itself \(SIGSEGV\)(.|\n)*Fatal Python error"):
            proxies.get(None)
        assert proxies.get(None).http.get("/health/liveliness").is_success
    finally:
        proxies.close()
