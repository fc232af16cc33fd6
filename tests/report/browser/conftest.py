"""A headless Chromium, and the pages that it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser
from made_results import METRICS, Folder, hostile, usual

from attn_bench.report import summarise, write_report

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        reason = "needs chromium and chromedriver; tests/report/browser/install-chromium.sh installs them on Debian"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    # The driver is on this machine: no proxy on the way to it.
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "localhost", "127.0.0.1")))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield Browser(driver)
    driver.quit()


def _page(folder: Folder) -> Path:
    written = write_report(folder.store.folder, summarise(folder.store.table(), METRICS))
    return next(path for path in written if path.suffix == ".html")


@pytest.fixture(scope="session")
def usual_page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _page(usual(tmp_path_factory.mktemp("usual")))


@pytest.fixture(scope="session")
def hostile_page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _page(hostile(tmp_path_factory.mktemp("hostile")))
