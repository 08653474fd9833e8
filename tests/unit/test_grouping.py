"""Which files of tests one worker runs together."""

from pathlib import Path

import pytest

from tests.conftest import ALONE, FAULTS, LONGEST, group_of
from tests.support.proxy import ROOT


def files(folder: str, names: set[str]) -> set[Path]:
    return {ROOT / folder / f"test_{name}.py" for name in names}


def test_the_files_that_are_named_exist() -> None:
    named = [*(files(folder, names) for folder, names in ALONE.items()), files("tests/services", FAULTS)]
    assert [file for some in named for file in some if not file.exists()] == []


@pytest.mark.parametrize(
    ("file", "group"),
    [
        ("tests/proxy/test_proxy_chat.py", "tests/proxy"),
        ("tests/proxy/test_load.py", "tests/proxy/test_load.py"),
        ("tests/services/test_spend_logs.py", "tests/services"),
        ("tests/services/test_proxy_policy_faults.py", "faults"),
        ("tests/services/test_killed_worker.py", "tests/services/test_killed_worker.py"),
        ("tests/unit/wire/test_readable.py", "tests/unit/wire/test_readable.py"),
    ],
)
def test_files_that_share_proxies_are_one_group(file: str, group: str) -> None:
    assert group_of(file) == group


def test_the_groups_that_come_first_exist() -> None:
    there = {group_of(str(file.relative_to(ROOT))) for file in ROOT.glob("tests/**/test_*.py")}
    assert set(LONGEST) <= there
