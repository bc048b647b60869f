"""A real browser, for pages that tests look at."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Chromium:
    """A headless browser that is spoken to in its DevTools protocol, over a pair of pipes."""

    def __init__(self, profile: Path, width: int = 1366, height: int = 650) -> None:
        for_it, self._to = _pipe()
        self._from, by_it = _pipe()
        command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", f"--window-size={width},{height}"]

        def give_pipes() -> None:  # the protocol has it read from 3 and write to 4
            os.dup2(for_it, 3)
            os.dup2(by_it, 4)

        self._process = subprocess.Popen(
            [*command, "about:blank"], preexec_fn=give_pipes, pass_fds=(3, 4), stderr=subprocess.DEVNULL
        )
        os.close(for_it)
        os.close(by_it)
        self._number, self._rest = 0, b""
        pages = self.ask("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = attached["sessionId"]
        self.ask("Page.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)

    _session: str | None = None

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives on the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 120) -> None:
        """Until an expression is true."""
        until = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < until, f"{expression}; the page shows: {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def press(self, *keys: str) -> None:
        """Keys as a keyboard sends them; after those that load or save something, wait until that is done."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)
            self.wait("!busy")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._from, 1 << 16)
            assert data, f"the browser ended with {self._process.wait()}"
            self._rest += data
        line, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(line))

    def close(self) -> None:
        self._session = None
        self.ask("Browser.close")
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)


def _pipe() -> tuple[int, int]:
    """Ends above 4, which are not in the way."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
