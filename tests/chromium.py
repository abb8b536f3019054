"""A real headless Chromium, driven through its DevTools protocol over two pipes."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


#: Chromium reads commands from file 3 and writes answers to file 4.
_WITH_PIPES = """
import os, sys
pipes = [os.dup(int(number)) for number in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
for pipe in (3, 4):
    os.set_inheritable(pipe, True)  # dup2 onto itself does not
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One tab; what the page logs is kept in ``console``."""

    def __init__(self, profile: Path, microphone: Path | None = None) -> None:
        if CHROMIUM is None:
            pytest.skip("no Chromium is installed here")
        commands, self._to = os.pipe()
        self._back, answers = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", _WITH_PIPES, str(commands), str(answers), CHROMIUM,
                "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                "--disable-background-networking", "--disable-component-update", "--no-first-run",
                "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}",
                *([f"--use-file-for-fake-audio-capture={microphone}"] if microphone else []),
                "about:blank",
            ],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self.console: list[str] = []
        self.requested: list[str] = []
        self._number = 0
        self._session: str | None = None
        # A browser that says nothing any more must not hold the tests.
        self._watch = threading.Timer(240, self.process.kill)
        self._watch.start()
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _receive(self) -> dict[str, Any]:
        content = bytearray()
        while not content.endswith(b"\0"):
            part = os.read(self._back, 1)
            assert part, "Chromium has ended"
            content += part
        message: dict[str, Any] = json.loads(content[:-1])
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, about = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded":
            self.console.append(about["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.console.append(json.dumps(about["args"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is on the page."""
        answer = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"{expression} stays {value!r}; {self.console}"
            time.sleep(0.1)
        return value

    def open(self, address: str) -> None:
        self("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def choose_file(self, selector: str, file: Path) -> None:
        document = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def drop_file(self, selector: str, file: Path) -> None:
        """Drag a file from outside over an element, and let it fall."""
        x, y = self.value(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def type(self, text: str) -> None:
        self("Input.insertText", text=text)

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        number = {"Enter": 13, "ArrowRight": 39, "Tab": 9, " ": 32}[key]
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, **text,
                 windowsVirtualKeyCode=number)  # fmt: skip

    def shape(self, width: int, dark: bool) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
             mobile=width < 500)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])

    def keep_downloads(self, folder: Path) -> None:
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def picture(self, path: Path) -> None:
        import base64

        answer = self("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self._watch.cancel()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._to)
        os.close(self._back)
