"""A viewer of the small model, running, and how the tests ask it."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from PIL import Image

from stylenerf.engine.applications.view.server import Server
from stylenerf.engine.applications.view.studio import Studio
from tests.models_at_hand import tiny_model

HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Answer(NamedTuple):
    status: int
    content: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.content))


def ask(server: Server, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """One request; underscores in the headers' names stand for dashes."""
    wanted = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url.rstrip("/") + path, data=body, method=method, headers=wanted)
    try:
        with HTTP.open(request, timeout=30) as answer:
            return Answer(answer.status, answer.read(), answer.headers)
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), error.headers)


@contextlib.contextmanager
def serving(port: int = 0, **changes: object) -> Iterator[Server]:
    server = Server(port=port)
    server.open(Studio(tiny_model(**changes)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.close()
        thread.join()


def until(condition: Callable[[], Any]) -> None:
    """Wait for it, at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
