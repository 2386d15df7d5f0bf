"""Drive a headless Chromium by its own protocol: open a page, run JavaScript in it, move the mouse, press keys."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bridgework.tests.browser import leashed_program

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
]

# JupyterLab knows keys by these numbers alone.
KEY_CODES = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def wait_for(log: Path, pattern: str, seconds: float = 120) -> str:
    """Return what a program writes into its log, once it has."""
    end = time.monotonic() + seconds
    while not (found := re.search(pattern, log.read_text())):
        assert time.monotonic() < end, f"no {pattern}: {log.read_text()}"
        time.sleep(0.05)
    return found.group()


class Chromium:
    """One browser with one page; `errors` collects what the page threw, or logged as an error."""

    def __init__(self, width: int = 1120, height: int = 1240) -> None:
        import websocket

        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        program = find_chromium()
        assert program
        flags = [*FLAGS, f"--user-data-dir={self.profile.name}", f"--window-size={width},{height}", "about:blank"]
        log = Path(self.profile.name) / "log.txt"
        self.process = leashed_program.start([program, *flags], log)
        self.socket = websocket.create_connection(wait_for(log, r"ws://\S+"), timeout=600, suppress_origin=True)
        self.number, self.session, self.errors = 0, None, []
        (page,) = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # no window has the focus where there is no screen
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Performance.enable", timeDomain="threadTicks")  # other programs on the machine do not count

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        leashed_program.stop(self.process)
        self.profile.cleanup()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.errors.append(answer["params"]["entry"])

    def open(self, address: str) -> None:
        self.ask("Page.navigate", url=address)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def run(self, expression: str) -> Any:
        """Return the value of an expression, of a promise when it is kept."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60, every: float = 0.05) -> None:
        """Wait until an expression is true, and look every so many seconds."""
        end = time.monotonic() + seconds
        while not self.run(f"!!({expression})"):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(every)

    def centre(self, element: str) -> tuple[float, float]:
        """Return where the middle of an element is, in pixels of the window."""
        x, y = self.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({element}.getBoundingClientRect())")
        return x, y

    def show(self, part: str) -> None:
        """Scroll an element into the window, and wait until it has stood still for half a second."""
        element = f"document.querySelector('{part}')"
        self.run(f"{element}.scrollIntoView({{block: 'center'}})")
        place = None
        while place != (place := self.centre(element)):
            time.sleep(0.5)

    def mouse(self, kind: str, x: float, y: float, clicks: int = 1) -> None:
        held = {"mousePressed": 1, "mouseMoved": 0, "mouseReleased": 0}[kind]
        button = "none" if kind == "mouseMoved" else "left"
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=held, clickCount=clicks)

    def click(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start)
        for share in (0.5, 1):
            self.mouse("mouseMoved", *(a + share * (b - a) for a, b in zip(start, end)))
        self.mouse("mouseReleased", *end)

    def press(self, key: str, shift: bool = False) -> None:
        code = KEY_CODES.get(key) or ord(key.upper())
        for kind in ("keyDown", "keyUp"):
            modifiers = 8 if shift else 0
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers)

    def busy(self) -> float:
        """Return the seconds of a processor that the page has taken, since it was opened."""
        return {m["name"]: m["value"] for m in self.ask("Performance.getMetrics")["metrics"]}["TaskDuration"]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
