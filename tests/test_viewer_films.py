"""Moving pictures over HTTP: made, stopped, refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from stylenerf.engine.applications.view.film import Films
from stylenerf.engine.applications.view.look import Look, Shot
from stylenerf.engine.applications.view.server import Server
from stylenerf.engine.errors import UserError
from stylenerf.models.march import BakedSubject
from tests.viewing import Answer, ask, serving, until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def held(server: Server) -> Iterator[threading.Event]:
    """The rendering thread is busy until the event is set."""
    event = threading.Event()
    busy = server.studio._worker.submit(event.wait, 20)
    yield event
    event.set()
    busy.result()


def film(server: Server, query: str) -> tuple[dict[str, Any], Answer]:
    """Begin one, wait for it, fetch it."""
    begun = ask(server, f"/api/video?{query}", "POST")
    assert begun.status == 202, begun.content
    number = begun.json["id"]
    until(lambda: ask(server, f"/api/video/{number}").json["state"] != "running")
    return ask(server, f"/api/video/{number}").json, ask(server, f"/api/video/{number}/file")


@pytest.mark.parametrize(("kind", "path"), [("webp", "turntable"), ("gif", "full-turn"), ("webp", "ellipse"),
                                            ("gif", "zoom")])  # fmt: skip
def test_a_film_is_made(server: Server, kind: str, path: str) -> None:
    about, answer = film(server, f"seed=2&frames=4&fps=10&kind={kind}&path={path}")
    assert (about["state"], about["done"], about["frames"]) == ("done", 4, 4) and about["bytes"] == len(answer.content)
    assert answer.headers["Content-Type"] == f"image/{kind}"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="film-{about["id"]}.{kind}"'
    moving: Any = answer.image
    assert (moving.format, moving.n_frames, moving.size) == (kind.upper(), 4, (16, 16))


def test_a_film_keeps_to_the_camera_that_is_looked_through(server: Server) -> None:
    films, look = Films(server.studio), Look(pitch=1.4, fov=20.0, radius=1.1, yaw=0.2)
    for path, fixed in (("turntable", "pitch"), ("full-turn", "pitch"), ("zoom", "yaw")):
        camera = films._path(look, Shot(path=path, frames=3)).camera
        x, y, z = camera.position.unbind(-1)
        torch.testing.assert_close(camera.position.norm(dim=-1), torch.full((3,), 1.1))
        wanted = torch.acos(z / 1.1) if fixed == "pitch" else torch.atan2(y, x)
        torch.testing.assert_close(wanted, torch.full((3,), 1.4 if fixed == "pitch" else 0.2))
        assert float(camera.fov_deg[0]) == pytest.approx(20, rel=1e-5)


def test_one_film_at_a_time_and_it_can_be_stopped(server: Server, held: threading.Event) -> None:
    number = ask(server, "/api/video?frames=200", "POST").json["id"]
    second = ask(server, "/api/video?frames=2", "POST")
    assert second.status == 400 and second.json["error"].startswith("video: wanted one at a time")
    unfinished = ask(server, f"/api/video/{number}/file")
    assert unfinished.status == 404 and "one that is running" in unfinished.json["error"]
    assert ask(server, f"/api/video/{number}/stop", "POST").status == 200
    held.set()
    until(lambda: ask(server, f"/api/video/{number}").json["state"] == "stopped")
    assert ask(server, f"/api/video/{number + 1}").status == 404


def test_a_film_ends_at_the_next_tile(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, whole, tiles = threading.Event(), BakedSubject.render, []

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        tiles.append(1)
        time.sleep(0.02)
        return whole(*args, **kwargs)

    monkeypatch.setattr(BakedSubject, "render", slow)
    number = ask(server, "/api/video?frames=2&strict=1&resolution=1024", "POST").json["id"]
    assert begun.wait(10)
    ask(server, f"/api/video/{number}/stop", "POST")
    until(lambda: ask(server, f"/api/video/{number}").json["state"] == "stopped")
    assert len(tiles) < 30  # of 64 in each frame


WRONG_FILMS = {
    "frames=1": "frames: wanted a whole number of 2 to 240, got '1'",
    "frames=241": "frames: wanted",
    "strict=1&resolution=1024&frames=200": "frames: wanted at most 85 at 1024 px, got 200",
    "fps=0": "fps: wanted a number of 1 to 50 frames a second",
    "kind=avi": "kind: wanted one of webp, gif",
    "path=/etc/passwd": "path: wanted one of turntable, ellipse, full-turn, zoom, got '/etc/passwd'",
    "format=png": "format: wanted one of",
}


@pytest.mark.parametrize("query", WRONG_FILMS)
def test_a_film_that_cannot_be_made_is_one_line(server: Server, query: str) -> None:
    answer = ask(server, f"/api/video?{query}", "POST")
    assert answer.status == 400 and answer.json["error"].startswith(WRONG_FILMS[query])


def test_a_film_that_fails_says_why(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise UserError("film.webp: no space")

    monkeypatch.setattr("stylenerf.engine.applications.view.film.save_animation", broken)
    about, answer = film(server, "frames=2")
    assert (about["state"], about["error"]) == ("failed", "film.webp: no space") and answer.status == 404
