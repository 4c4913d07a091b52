"""A real Chromium without a window, driven over a pair of pipes: pages are opened, clicked and asked.

It speaks the DevTools protocol: JSON with a zero byte behind each message (``--remote-debugging-pipe``).
"""

from __future__ import annotations

import base64
import contextlib
import glob
import json
import os
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

__all__ = ["Chromium", "Tab", "find_chromium", "require_chromium"]

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0

KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, None),
    "ArrowDown": (40, None),
    "ArrowUp": (38, None),
    "ArrowLeft": (37, None),
    "ArrowRight": (39, None),
}


def find_chromium() -> str | None:
    """The program, None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def require_chromium() -> str:
    """The program; without it the test is skipped, in CI it fails."""
    found = find_chromium()
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("no Chromium: apt-get install chromium-headless-shell", pytrace=False)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium-headless-shell")
    return found


class Chromium:
    """The browser, with a profile of its own; ends with its block.

    Args:
        folder: Where it may keep what it wants.
        size: Of its windows.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1400, 900)) -> None:
        program = require_chromium()
        to_read, to_write = os.pipe(), os.pipe()
        arguments = [
            "--headless",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            "--no-sandbox",  # it has none for root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            f"--window-size={size[0]},{size[1]}",
        ]
        # It reads file 3 and writes file 4; dash knows no numbers above 9.
        command = ["bash", "-c", f'exec 3<&{to_read[0]} 4>&{to_write[1]}; exec "$0" "$@"', program, *arguments]
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_read[0], to_write[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
        )
        os.close(to_read[0])
        os.close(to_write[1])
        self._out, self._in = to_read[1], to_write[0]
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self.ask("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One request and its answer; what comes meanwhile is kept in ``events``."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            request["sessionId"] = session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        end = time.monotonic() + PATIENCE
        while True:
            message = self._read(end)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError(f"Chromium does not answer (its status is {self._process.poll()})")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def worked(self) -> float:
        """Seconds that its processes have had a processor so far: the same on a busy machine as on a quiet one."""
        parents, found = {}, {self._process.pid}
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
            found |= more
        total = 0
        for pid in found:
            for task in glob.glob(f"/proc/{pid}/task/*/schedstat"):
                with contextlib.suppress(OSError), open(task) as file:
                    total += int(file.read().split()[0])
        return total / 1e9

    def open(self, page: Path, fragment: str = "", dark: bool = False) -> Tab:
        """A new tab that shows a file."""
        return Tab(self, page.as_uri() + fragment, dark)


class Tab:
    """A page that is open."""

    def __init__(self, browser: Chromium, address: str, dark: bool) -> None:
        self._browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{part}.enable")
        self.colours(dark)
        self.go(address)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A request about this page."""
        return self._browser.ask(method, self._session, **parameters)

    def go(self, address: str) -> None:
        """Load an address, and wait until the page is there."""
        self.ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && document.body !== null")

    def colours(self, dark: bool) -> None:
        """What the system prefers."""
        value = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def close(self) -> None:
        """Close it."""
        self._browser.ask("Target.closeTarget", targetId=self._target)

    def value(self, expression: str) -> Any:
        """What an expression comes to, as JSON; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", str(answer)))
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression comes to something true, and return it."""
        end = time.monotonic() + PATIENCE
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)
        return found

    def settle(self) -> None:
        """Wait until what was asked for has been drawn."""
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def text(self, selector: str) -> str:
        """What an element shows."""
        found: str = self.value(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """A place in an element, in shares of its size."""
        script = f"""(() => {{ const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{block: "nearest"}}); const box = node.getBoundingClientRect();
            return [box.left + box.width * {x}, box.top + box.height * {y}]; }})()"""
        left, top = self.value(script)
        return left, top

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One event of the mouse."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def hover(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Move the mouse there."""
        self.mouse("mouseMoved", *self.place(selector, x, y))
        self.settle()

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click there."""
        at = self.place(selector, x, y)
        self.mouse("mouseMoved", *at)
        self.mouse("mousePressed", *at, button="left", clickCount=1, buttons=1)
        self.mouse("mouseReleased", *at, button="left", clickCount=1)
        self.settle()

    def drag(self, selector: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from one place of an element to another."""
        first, last = self.place(selector, *begin), self.place(selector, *end)
        self.mouse("mouseMoved", *first)
        self.mouse("mousePressed", *first, button="left", clickCount=1, buttons=1)
        for share in (0.3, 0.7, 1.0):
            x, y = (one + (two - one) * share for one, two in zip(first, last, strict=True))
            self.mouse("mouseMoved", x, y, button="left", buttons=1)
        self.mouse("mouseReleased", *last, button="left", clickCount=1)
        self.settle()

    def press(self, key: str) -> None:
        """Press a key."""
        code, text = KEYS.get(key, (ord(key[0].upper()), key))
        about = {"key": key, "windowsVirtualKeyCode": code, **({"text": text} if text else {})}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **about)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.settle()

    def type(self, text: str) -> None:
        """Type where the focus is."""
        self.ask("Input.insertText", text=text)
        self.settle()

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions nobody caught, and whatever it tried to load."""
        self.settle()
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            about = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(about["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                found.append(str(about["args"]))
            elif event["method"] == "Network.requestWillBeSent":
                address = about["request"]["url"]
                if not address.startswith(("file:", "data:", "about:")):
                    found.append(f"asked for {address}")
        return found

    def picture(self, path: Path, clip: tuple[float, float, float, float] | None = None) -> None:
        """What is seen, as a PNG."""
        self.settle()
        about: dict[str, Any] = {}
        if clip is not None:
            about["clip"] = dict(zip(("x", "y", "width", "height"), clip, strict=True), scale=1)
        data = self.ask("Page.captureScreenshot", format="png", optimizeForSpeed=False, **about)["data"]
        path.write_bytes(base64.b64decode(data))

    def forget_complaints(self) -> None:
        """What was complained of so far was expected."""
        self._browser.events = [one for one in self._browser.events if one.get("sessionId") != self._session]
