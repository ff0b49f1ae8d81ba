"""Debian's Chromium, headless, with a profile of its own; and the console on a loopback port for it to look at."""

import ctypes
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import waitress
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from .process import free_port

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--lang=en", "--disable-features=PasswordLeakDetection"),
)


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Return a browser that keeps nothing, and saves downloads under profile/downloads."""
    options = Options()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(profile / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(shutil.which("chromedriver"), popen_kw={"preexec_fn": _stay_in_line})
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_page_load_timeout(30)
        yield driver
    finally:
        driver.quit()


def _stay_in_line() -> None:
    """Drop CAP_SYS_NICE: root's Chromium would go before all other processes of this machine."""
    drop, sys_nice = 24, 23  # PR_CAPBSET_DROP of prctl(2)
    ctypes.CDLL(None).prctl(drop, sys_nice, 0, 0, 0)


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on a loopback port and return its address."""
    port = free_port()
    server = waitress.create_server(app, host="127.0.0.1", port=port, threads=4)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        thread.join(5)
