"""The pictures of the monitor page in the docs show the pages as they are."""

import json

from playwright.sync_api import Browser

from docs.pictures.monitor import DIGESTS, digest, opened, played


def test_the_pictures_are_current(chromium: Browser) -> None:
    with played(chromium) as (page, paths):
        shown: dict[str, str] = {}
        for name, path in paths.items():
            opened(page, path)
            shown[name] = digest(page)
    assert shown == json.loads(DIGESTS.read_text(encoding="utf-8")), "take them anew: python -m docs.pictures.monitor"
