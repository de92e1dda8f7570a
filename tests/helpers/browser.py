"""A headless Chromium, driven by the DevTools protocol over a pipe."""

import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "google-chrome-stable")


class Page:
    """A page that is open; ``errors`` holds what its console reports as such."""

    def __init__(self, requests: int, answers: int):
        self.errors: list[str] = []
        self._requests, self._answers = requests, answers
        self._number, self._buffer, self._session = 0, b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": params, **session}
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._answers], [], [], 60)[0], "the browser does not answer"
            self._buffer += os.read(self._answers, 1 << 20)
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(json.dumps(params["args"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        return message

    def open(self, path: Path) -> None:
        """Opens a file, and waits until it is loaded."""
        self.call("Page.navigate", url=path.as_uri())
        self.js("new Promise(done => document.readyState === 'complete' ? done() : onload = done)")

    def js(self, text: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, (text, answer)
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Presses keys, one after another, where the focus is."""
        for key in keys:
            code = f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else key
            virtual = {"Enter": 13, "Escape": 27, "Home": 36, "End": 35, "ArrowLeft": 37}
            virtual |= {"ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
            number = virtual.get(key, ord(key[0].upper()))
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            named = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """``mousePressed``, ``mouseMoved`` or ``mouseReleased`` at a place of the window."""
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )


@contextmanager
def browser(folder: Path, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page of a new browser that keeps its files in ``folder``; skips where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on PATH (install chromium, or set CHROMIUM)")
    read, requests = os.pipe()
    answers, write = os.pipe()
    options = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", "--no-first-run", "--disable-extensions"),
        f"--user-data-dir={folder}",
        f"--window-size={width},{height}",
    ]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{read} 4>&{write}', found, *options],
            pass_fds=(read, write),
            stdout=log,
            stderr=log,
        )
    os.close(read)
    os.close(write)
    try:
        page = Page(requests, answers)
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        yield page
        page.call("Browser.close")
    finally:
        os.close(requests)
        os.close(answers)
        process.kill()
        process.wait()
