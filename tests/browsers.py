"""A headless Chromium for tests, and programs that a test needs. What is missing skips, but fails under CI's variable."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STRICT = os.environ.get("WHISPER_SWEEP_STRICT") == "1"


def needed(*names: str) -> list[str]:
    """The paths of programs, or a skip."""
    found = [shutil.which(name) for name in names]
    if not all(found):
        missing = " and ".join(name for name, path in zip(names, found, strict=True) if not path)
        if STRICT:
            pytest.fail(f"{missing} is not installed, and WHISPER_SWEEP_STRICT=1")
        pytest.skip(f"{missing} is not installed")
    return found


@contextmanager
def chromium(profile: Path) -> Iterator:
    """Chromium driven by selenium, with its logs of the console and of the network."""
    program, driver = needed("chromium", "chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                   "disable-background-networking", "disable-component-update", f"user-data-dir={profile}"):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        opened.set_window_size(1280, 900)
        yield opened
    finally:
        opened.quit()
