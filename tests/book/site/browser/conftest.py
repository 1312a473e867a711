"""The built site, served on this machine and shown by Chromium; nothing else can be reached.

These tests look at the folder that $COURSE_SITE names, and are collected only where it does: `make site-test` sets it.
"""

import functools
import http.server
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SITE = os.environ.get("COURSE_SITE")
collect_ignore_glob = [] if SITE else ["test_*.py"]

WAIT_FOR_MATHEMATICS = "() => window.MathJax?.startup?.promise"
HARMLESS = ("[PST]:",)  # how the theme begins what it logs of itself
A_MINUTE = 60_000  # milliseconds; a loaded machine is slow, not wrong


@dataclass
class Visit:
    """A page that Chromium shows, and what happened while it did."""

    page: object
    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


class Browser:
    """Chromium; every request to another address than that of the site is noted and refused."""

    def __init__(self, chromium, address: str):
        self._chromium = chromium
        self.address = address

    def open(self, name: str, *, width: int = 1440, height: int = 900, **options) -> Visit:
        """Show a page of the site, its mathematics typeset."""
        page = self._chromium.new_page(viewport={"width": width, "height": height}, **options)
        page.set_default_timeout(A_MINUTE)
        visit = Visit(page)

        def request(route):
            if route.request.url.startswith(self.address):
                route.continue_()
            else:
                visit.elsewhere.append(route.request.url)
                route.abort()

        page.route("**/*", request)
        page.on("console", lambda said: visit.console.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: visit.console.append(f"error: {error}"))
        page.on("requestfailed", lambda asked: visit.failed.append(asked.url))
        page.on("response", lambda got: visit.failed.append(got.url) if got.status >= 400 else None)
        page.goto(self.address + name)
        page.evaluate(WAIT_FOR_MATHEMATICS)
        return visit


def complaints(visit: Visit) -> list[str]:
    """What the console says, but for what the theme tells of itself."""
    said = (line.split(": ", 1) for line in visit.console)
    return [f"{kind}: {text}" for kind, text in said if not text.startswith(HARMLESS)]


@pytest.fixture(scope="session")
def site() -> Path:
    folder = Path(SITE).resolve()
    if not (folder / "index.html").is_file():
        pytest.exit(f"COURSE_SITE is {folder} and holds no index.html; make site builds it.", returncode=1)
    return folder


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.exit("There is no chromium on the path; as root: apt-get install chromium", returncode=1)
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, which continuous integration is; it shows nothing but our own pages.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def serve():
    """serve(folder) gives the address under which the files of a folder are to be had."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def browser(chromium, serve, site):
    return Browser(chromium, serve(site))
