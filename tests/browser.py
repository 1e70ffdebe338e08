"""A real Chromium without a window, driven over its DevTools pipe: nothing else to install."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Chromium reads commands from descriptor 3 and writes answers to 4.
SHELL = 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null'
PATIENCE = 20.0


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome of this machine, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One Chromium process with a profile of its own.

    `events` holds what it reported unasked, oldest first, as DevTools messages.
    """

    def __init__(self, executable: str, profile: Path) -> None:
        flags = [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        command = ["sh", "-c", SHELL, "sh", executable, *flags]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._last, self._unread = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(
        self, method: str, params: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """Return Chromium's answer to a DevTools command.

        Raises:
            RuntimeError: it refused the command.
            TimeoutError: it did not answer.
        """
        self._last += 1
        message = {"id": self._last, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        until = time.monotonic() + PATIENCE
        while (answer := self._next(until)).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self, until: float) -> dict[str, Any]:
        output = self._process.stdout.fileno()
        while b"\0" not in self._unread:
            readable, _, _ = select.select([output], [], [], max(0, until - time.monotonic()))
            piece = os.read(output, 1 << 20) if readable else b""
            if not piece:
                raise TimeoutError("Chromium does not answer")
            self._unread += piece
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()  # Chromium ends when nobody can command it any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Tab:
    """One page of a browser."""

    def __init__(self, browser: Browser, downloads: Path) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session = browser.call("Target.attachToTarget", attach)["sessionId"]
        self._target = target
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        browser.call(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer to a DevTools command about this page."""
        return self._browser.call(method, params, self._session)

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", {"targetId": self._target})

    def open(self, url: str) -> None:
        """Go to `url` and return when its document is there, whatever scripts still do to it."""
        self.call("Page.navigate", {"url": url})
        self.wait_for("document.readyState !== 'loading'")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited.

        Raises:
            RuntimeError: it threw.
        """
        params = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", params)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = PATIENCE) -> None:
        """Return when an expression is truthy.

        Raises:
            TimeoutError: it stayed falsy; the page's text says where things stood.
        """
        until = time.monotonic() + seconds
        while not self.run(f"!!({script})"):
            if time.monotonic() > until:
                text = self.run("document.body.innerText")
                raise TimeoutError(f"never came true: {script}\nThe page says:\n{text}")
            time.sleep(0.05)

    def wait_for_text(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until the page shows `text`."""
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})", seconds)

    def press(self, key: str, code: int) -> None:
        """Press and release a key, as a hand would."""
        params = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown"} | params | text)
        self.call("Input.dispatchKeyEvent", {"type": "keyUp"} | params)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Give the page a window of so many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, feature: str, value: str) -> None:
        """Set what the user prefers, as `prefers-color-scheme` to `dark`."""
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": feature, "value": value}]})

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        params = {"format": "png", "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", params)["data"]))

    def requests(self) -> list[str]:
        """Return the addresses that the page has asked for."""
        sent = self._events("Network.requestWillBeSent")
        return [event["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """Return what the page threw, and what the browser's console said against it."""
        self.run("1")  # events that were under way are in after this
        thrown = [
            event["exceptionDetails"]["exception"].get("description", "")
            for event in self._events("Runtime.exceptionThrown")
        ]
        logged = [event["entry"]["text"] for event in self._events("Log.entryAdded")]
        return thrown + logged

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the first truthy value of a function.

    Raises:
        TimeoutError: it stayed falsy.
    """
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise TimeoutError("never came true")
        time.sleep(0.05)
    return value
