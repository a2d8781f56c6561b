"""A headless Chromium, driven through a pipe by the DevTools protocol with nothing but the standard library.

`python -m tests.browser page.html picture.png [light|dark] [width] [height]` takes a picture.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import sys
import time
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FOLDERS = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
MISSING = (
    "no Chromium found to look at the reports with: install one (Debian: apt install chromium; macOS: brew install "
    "--cask google-chrome), name it in CROSSENT_BROWSER, or set CROSSENT_NO_BROWSER=1 to go without these tests"
)
PATIENCE = 60.0  # seconds

PICTURE_FLAWS = """((kind, slack) => {
  const found = [];
  for (const svg of document.querySelectorAll(kind)) {
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].filter(e => e.textContent.trim() && e.getClientRects().length);
    const boxes = texts.map(e => e.getBoundingClientRect());
    boxes.forEach((a, i) => {
      const out = [edge.left - a.left, a.right - edge.right, edge.top - a.top, a.bottom - edge.bottom];
      if (Math.max(...out) > slack) found.push('beyond its picture: ' + texts[i].textContent);
      boxes.slice(i + 1).forEach((b, j) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 0 && high > 3) found.push('overlap: ' + texts[i].textContent + ' | ' + texts[i + 1 + j].textContent);
      });
    });
  }
  return found;
})"""
"""What is wrong with texts in pictures of a kind: they overlap, or stick out by more than so many pixels."""


def find() -> str | None:
    """The path of a Chromium, if there is one."""
    named = [os.environ.get("CROSSENT_BROWSER", ""), *NAMES, *FOLDERS]
    return next((path for name in named if name and (path := shutil.which(name))), None)


class Browser:
    """One browser with one page; what the page asks for and says is kept in `requests` and `console`."""

    def __init__(self, path: str) -> None:
        self._home = TemporaryDirectory(ignore_cleanup_errors=True)
        ours, theirs = os.pipe(), os.pipe()
        # the protocol wants the descriptors 3 and 4, so the ends that go there must not lie there already
        give, take = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (ours[0], theirs[1]))
        for end in (ours[0], theirs[1]):
            os.close(end)
        options = "headless no-sandbox disable-gpu hide-scrollbars disable-dev-shm-usage disable-background-networking"
        options += " disable-extensions no-first-run no-default-browser-check remote-debugging-pipe use-mock-keychain"
        arguments = [path, *(f"--{option}" for option in options.split()), f"--user-data-dir={self._home.name}"]
        nowhere = [(os.POSIX_SPAWN_OPEN, end, os.devnull, os.O_RDWR, 0) for end in range(3)]
        pipes = [(os.POSIX_SPAWN_DUP2, give, 3), (os.POSIX_SPAWN_DUP2, take, 4)]
        self._pid = os.posix_spawn(path, [*arguments, "about:blank"], dict(os.environ), file_actions=[*nowhere, *pipes])
        os.close(give)
        os.close(take)
        self._to, self._from = ours[1], theirs[0]
        self._count, self._rest = 0, b""
        self._arrived: deque[dict[str, Any]] = deque()
        self.requests: list[str] = []
        self.console: list[str] = []
        self._session = ""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            _ = self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        session, self._session = self._session, ""
        try:
            _ = self.call("Browser.close")
        finally:
            self._session = session
            os.close(self._to)
            os.close(self._from)
            _ = os.waitpid(self._pid, 0)
            self._home.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command; events that come before it are kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, path: Path, *, width: int = 1280, scheme: str = "light", media: str = "screen") -> None:
        """Load a page at this width and in this colour scheme, and wait until it is drawn."""
        self.requests.clear()
        self.console.clear()
        self._arrived.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        _ = self.call("Emulation.setDeviceMetricsOverride", **size)
        _ = self.call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        _ = self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._arrived):
            _ = self._receive()
        _ = self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self, path: Path, height: int = 0) -> None:
        """Save what the page looks like, as PNG: the top of it, or all."""
        width, whole = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, whole) or whole, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        _ = path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(limit - time.monotonic(), 0))
            assert ready, f"the browser said nothing for {PATIENCE:g} s"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended by itself"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        method, parameters = message.get("method", ""), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}:
            self.console.append(json.dumps(parameters))
        if method:
            self._arrived.append(message)
        return message


if __name__ == "__main__":
    source, target, scheme, width, height = [*sys.argv[1:], *("light", "1280", "0")[len(sys.argv) - 3 :]]
    with Browser(find() or sys.exit(MISSING)) as browser:
        browser.open(Path(source), width=int(width), scheme=scheme)
        browser.picture(Path(target), int(height))
