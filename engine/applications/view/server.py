"""The page and its pictures over HTTP, for one person on one machine; nothing but the standard library.

    GET  /                      the page; its parts lie beside it
    GET  /api/model             what the model is and the ranges of every parameter, JSON
    GET  /api/image?...         one picture: seed, truncation, label, mix, mix_rows, mix_amount, yaw, pitch, fov,
                                radius, show, parts, strict, resolution, samples; format, download; client, turn
    GET  /api/subject?...       the same subject and camera as a .npz for --latents
    POST /api/video?...         begin a moving picture: those of the picture, and path, frames, fps, kind
    GET  /api/video/N           how far it is;  GET /api/video/N/file: itself;  POST /api/video/N/stop

A wrong parameter is answered by 400 and ``{"error": "name: wanted ..., got ...", "parameter": "name"}``. A request that
a newer one of the same client has overtaken is answered by 204 and nothing.

A page of another origin gets nothing: the Host header has to name this machine (against names that were bound again to
its address), the Origin header, where there is one, the host, and Sec-Fetch-Site must not say that another site asks.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import re
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...errors import UserError, one_line, os_reason, short
from . import film
from .film import Films
from .look import (
    FORMATS,
    BadQuery,
    Delivery,
    Look,
    Shot,
    delivery_readers,
    look_readers,
    make_look,
    read_query,
    shot_readers,
)
from .studio import Closing, Stale, Studio, encode, note_of

MAX_CONNECTIONS = 48
_HERE = Path(__file__).parent
_STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/canvas.js": ("canvas.js", "text/javascript; charset=utf-8"),
    "/files.js": ("files.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Answer(NamedTuple):
    """Response of the server."""

    content: bytes
    kind: str
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()


class Refused(UserError):
    """A request that gets nothing, whatever it wants."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Server(ThreadingHTTPServer):
    """The viewer of one model: take an address, ``open`` a model, ``serve_forever``, ``close``."""

    daemon_threads = True
    request_queue_size = 64

    studio: Studio
    films: Films

    def __init__(self, host: str = "127.0.0.1", port: int = 8000) -> None:
        """Take the address, which answers once it serves. Port 0 is a free one.

        Raises: UserError naming the argument if it cannot be had.
        """
        if not 0 <= port <= 65535:
            raise UserError(f"--port: wanted 0 to 65535, got {port}")
        self.host = host
        self.static = {path: Answer((_HERE / name).read_bytes(), kind) for path, (name, kind) in _STATIC.items()}
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"--port: wanted a free one, got {port}, which is in use (0 picks a free one)"
                ) from None
            if isinstance(error, PermissionError):
                raise UserError(f"--port: wanted one that this user may take, got {port}") from None
            raise UserError(f"--host: wanted an address of this machine, got {host!r}: {os_reason(error)}") from None
        except UnicodeError:
            raise UserError(f"--host: wanted an address of this machine, got {short(host)}") from None

    def open(self, studio: Studio) -> None:
        """Serve this studio."""
        self.studio, self.films = studio, Films(studio)

    def server_bind(self) -> None:
        """Without the search for the host's name in http.server, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        """Address of the page for a browser on this machine."""
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{name}]' if ':' in name and not name.startswith('[') else name}:{self.server_port}/"

    def knows_host(self, name: str) -> bool:
        """Whether a Host header names this machine: by number, as localhost, or as it was told to listen."""
        if name.lower() in ("localhost", self.host.lower(), socket.gethostname().lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is nobody's error."""

    def close(self) -> None:
        """Give up what is being rendered and free the address."""
        self.server_close()
        if hasattr(self, "studio"):
            self.films.close()
            self.studio.close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "stylenerf", ""
    timeout = 60  # seconds that a connection may idle
    disable_nagle_algorithm = True  # a header waits for no acknowledgement

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """In silence: a drag asks for dozens of pictures a second."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors of http.server itself, in the form of our own."""
        self.close_connection = True
        text = message or HTTPStatus(code).phrase
        self._send(_json({"error": f"request: wanted one of HTTP, got: {text[:100]}"}, HTTPStatus(code)))

    def _answer(self, method: str) -> None:
        address = urlsplit(self.path)
        try:
            self._check(address.path)
            answer = self._route(method, address.path, address.query)
        except BadQuery as error:
            answer = _json({"error": str(error), "parameter": error.parameter}, HTTPStatus.BAD_REQUEST)
        except Refused as error:
            answer = _json({"error": str(error)}, error.status)
        except UserError as error:
            text = str(error).removeprefix("--")
            answer = _json({"error": text, "parameter": text.partition(":")[0]}, HTTPStatus.BAD_REQUEST)
        except Stale:
            answer = Answer(b"", "", HTTPStatus.NO_CONTENT)
        except Closing:
            self.close_connection = True
            answer = _json({"error": "viewer: it is about to end"}, HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception as error:  # the page shows it, and the viewer lives on
            line = f"{type(error).__name__}: {one_line(error)[:300]}"
            print(f"error: {line}", file=sys.stderr, flush=True)
            answer = _json({"error": line}, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(answer)

    def _check(self, path: str) -> None:
        """Raises: Refused for a request that another site's page may have made, or one with a body."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # nobody reads what follows
            raise Refused(HTTPStatus.BAD_REQUEST, "body: wanted none, got one")
        host = self.headers.get("Host", "")
        name = _host_name(host)
        if name is None or not self.server.knows_host(name):
            wanted = f"localhost, an address, or {self.server.host} as --host says"
            raise Refused(HTTPStatus.FORBIDDEN, f"Host: wanted {wanted}, got {short(host)}")
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(HTTPStatus.FORBIDDEN, f"Origin: wanted {host}, got {short(origin)}")
        # a link on another page may lead to ours, but it may not read or start anything
        if path.startswith("/api/") and self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused(HTTPStatus.FORBIDDEN, "Sec-Fetch-Site: wanted same-origin, got another")

    def _route(self, method: str, path: str, query: str) -> Answer:
        if method == "GET" and path in self.server.static:
            return self.server.static[path]
        if method == "GET" and path == "/api/model":
            read_query(query, {})
            description = {**self.server.studio.describe(), "paths": film.PATHS, "kinds": film.kinds()}
            return _json({**description, "max_frames": film.MAX_FRAMES})
        if method == "GET" and path == "/api/image":
            return self._image(query)
        if method == "GET" and path == "/api/subject":
            look = self._look(query, {})[0]
            name = f"seed-{look.seed}.npz"
            return Answer(self.server.studio.subject_file(look), "application/zip", headers=_attached(name))
        if method == "POST" and path == "/api/video":
            limits = shot_readers(film.PATHS, film.kinds(), film.MAX_FRAMES)
            look, values = self._look(query, limits)
            return _json(self.server.films.start(look, Shot(**values)).describe(), HTTPStatus.ACCEPTED)
        match = re.fullmatch(r"/api/video/(\d{1,9})(/file|/stop)?", path, re.ASCII)
        if match and method == ("POST" if match[2] == "/stop" else "GET"):
            read_query(query, {})
            return self._video(int(match[1]), match[2] or "")
        raise Refused(HTTPStatus.NOT_FOUND, f"address: wanted one of the viewer's, got {method} {short(path)}")

    def _look(self, query: str, more: dict[str, Any]) -> tuple[Look, dict[str, Any]]:
        limits = self.server.studio.limits
        values = read_query(query, {**look_readers(limits), **more})
        rest = {name: values.pop(name) for name in list(values) if name in more}
        return make_look(values, limits), rest

    def _image(self, query: str) -> Answer:
        look, values = self._look(query, delivery_readers())
        delivery, studio = Delivery(**values), self.server.studio
        picture = studio.picture(look, delivery.client, delivery.turn, full=delivery.download)
        note = note_of(studio, look) if delivery.download else None
        headers = [("X-Render-Ms", f"{picture.render_ms:.2f}"), ("X-Edge", str(picture.image.width))]
        if delivery.download:
            headers += _attached(f"{_file_stem(look)}.{delivery.format}")
        return Answer(encode(picture.image, delivery.format, note), FORMATS[delivery.format], headers=tuple(headers))

    def _video(self, number: int, wish: str) -> Answer:
        try:
            film_job = self.server.films.find(number)
        except UserError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from None
        if wish == "/stop":
            self.server.films.stop(film_job)
        if wish != "/file":
            return _json(film_job.describe())
        if film_job.state != "done":
            raise Refused(HTTPStatus.NOT_FOUND, f"video: wanted one that is done, got one that is {film_job.state}")
        return Answer(film_job.content, film.TYPES[film_job.kind], headers=_attached(f"film-{number}.{film_job.kind}"))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in (*_HEADERS.items(), *answer.headers):
            self.send_header(name, value)
        if answer.kind:
            self.send_header("Content-Type", answer.kind)
        if answer.status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(answer.content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.content)


def _json(value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json", status)


def _attached(name: str) -> tuple[tuple[str, str], ...]:
    return (("Content-Disposition", f'attachment; filename="{name}"'),)


def _file_stem(look: Look) -> str:
    """A name that tells screenshots apart: what differs from the defaults."""
    words = [f"seed-{look.seed}"]
    words += [f"mix-{look.mix}"] if look.mix is not None else []
    words += [look.show] if look.show != "colour" else []
    words += [look.parts] if look.parts != "all" else []
    words += ["strict"] if look.strict else []
    return "-".join(words)


def _host_name(host: str) -> str | None:
    """The name in a Host header, without port and brackets; None if it is none."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?", host)
    return None if match is None else match[1] or match[2]
