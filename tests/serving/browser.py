"""A headless chromium, driven by its DevTools protocol."""

import contextlib
import json
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-dev-shm-usage --remote-debugging-port=0"
).split()
KEYS = {
    "Enter": 13,
    "Escape": 27,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Delete": 46,
}
"""Windows' numbers of keys, which the browser's own reactions go by."""
SECONDS = 120
"""Longest wait for anything."""


class Page:
    """One page; ``problems`` are the errors that it reported."""

    def __init__(self, socket):
        self.socket, self.calls, self.problems = socket, 0, []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """The result of a command of the protocol."""
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=SECONDS))
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(message["params"])
            if message.get("id") == self.calls:
                assert "error" not in message, message
                return message["result"]

    def run(self, script):
        """The value of a script, waited for."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition):
        """Until the script ``condition`` is true."""
        deadline = time.monotonic() + SECONDS
        while not self.run(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.1)

    def look(self, width, height=900, theme="light"):
        """Another size of the window, another theme of the system."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def press(self, key, text=""):
        """A key of the keyboard."""
        for kind in ("keyDown", "keyUp"):
            typed = text if kind == "keyDown" else ""
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=typed, windowsVirtualKeyCode=KEYS[key])

    def mouse(self, start, end=None):
        """Press the mouse's button in the middle of what the script ``start`` finds; let go there, or at ``end``."""
        self.run(f"{start}.scrollIntoView({{block: 'center'}})")
        for kind, script in (("mousePressed", start), ("mouseReleased", end or start)):
            box = self.run(f"{script}.getBoundingClientRect().toJSON()")
            place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
            self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)


@contextlib.contextmanager
def browse(url):
    """A :class:`Page` that shows ``url``."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={directory}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_socket_of(Path(directory)), max_size=2**27, open_timeout=SECONDS, ping_interval=None) as ws:
                page = Page(ws)
                page.look(1400)
                page.call("Page.navigate", url=url)
                yield page
        finally:
            process.terminate()
            process.wait(30)


def _socket_of(directory):
    """Address of the first tab, once the browser has written where it listens."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, IndexError, ValueError):
            port = int((directory / "DevToolsActivePort").read_text().splitlines()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
                return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
        time.sleep(0.1)
    raise AssertionError("chromium did not start")
