"""The app as a user starts it, on a free port, and a browser to look at it; both end with their `with` block.

The benchmarks, the tests and docs/take_screenshot.py use them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from urllib.error import URLError

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWPORT = {"width": 1280, "height": 1000}  # CSS pixels; the whole map is in view


@dataclass(frozen=True)
class AppServer:
    address: str  # host:port
    pid: int
    started: float  # time.perf_counter() just before the process began
    answered: float  # and when it first said that it was healthy

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def memory_mb(self) -> float:
        """Resident memory of the server process. Linux only."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def app_server(environment: dict[str, str] | None = None, timeout: float = 120) -> Iterator[AppServer]:
    """`streamlit run app.py`, from when it answers. Raises RuntimeError with what it printed if it does not in time.

    environment: variables beside those of this process.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = f"localhost:{port}"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--server.port", str(port)],
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not _is_healthy(address):
                if process.poll() is not None or time.perf_counter() - started > timeout:
                    output.seek(0)
                    raise RuntimeError(f"the server did not start: {output.read().decode()}")
                time.sleep(0.01)
            yield AppServer(address, process.pid, started, time.perf_counter())
        finally:
            process.terminate()
            process.wait()


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/_stcore/health", timeout=5) as answer:
            return answer.status == 200
    except (URLError, ConnectionError):
        return False


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed browser, else Playwright's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_map(browser: Browser, url: str) -> Page:
    """A fresh visitor's page, once its latent map is painted."""
    page = browser.new_context(viewport=VIEWPORT, has_touch=True).new_page()
    page.goto(url)
    page.locator(".latent-map[data-painted]").wait_for()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page


def print_setting(browser: Browser | None = None) -> None:
    """One line: absolute figures mean little without it."""
    parts = [f"{os.cpu_count()} cores", f"Python {sys.version.split()[0]}", f"Streamlit {version('streamlit')}"]
    if browser:
        parts.append(f"Chromium {browser.version}")
    print(", ".join(parts) + "\n")


def p50_p95(values: list[float]) -> tuple[float, float]:
    return median(values), quantiles(values, n=20, method="inclusive")[-1]
