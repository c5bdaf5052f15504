"""The viewer over HTTP: pictures, one line for what is wrong, who is let in, what is given up."""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylenerf.engine.applications.render.outputs import to_pillow
from stylenerf.engine.applications.render.subjects import load_subjects, subjects_from_seeds
from stylenerf.engine.applications.render.views import render_view
from stylenerf.engine.applications.view.look import Look
from stylenerf.engine.applications.view.server import MAX_CONNECTIONS, Server
from stylenerf.engine.applications.view.studio import Closing, Stale, Studio, style_rows
from stylenerf.engine.errors import UserError
from stylenerf.models.camera import Camera, CameraPrior
from stylenerf.models.march import BakedSubject
from tests.models_at_hand import PRIOR, tiny_model
from tests.viewing import ask, serving, until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


# pictures


def test_a_picture_is_the_view_that_was_asked_for(server: Server) -> None:
    model = server.studio.model
    subjects = subjects_from_seeds(model, [7], truncation_psi=0.5)
    view = render_view(model, subjects, Camera.orbit(1.5, 0.25, 1.0, fov_deg=25.0))
    answer = ask(server, "/api/image?seed=7&truncation=0.5&yaw=0.25&pitch=1.5&fov=25")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.image.tobytes() == to_pillow(view.image)[0].tobytes()
    assert float(answer.headers["X-Render-Ms"]) > 0 and answer.headers["X-Edge"] == "16"


def test_the_same_question_has_the_same_answer(server: Server) -> None:
    path = "/api/image?seed=3&mix=4&mix_rows=fine&show=normals&strict=1&resolution=24"
    first, _, again = ask(server, path), ask(server, "/api/image?seed=9"), ask(server, path)
    assert first.status == 200 and first.content == again.content


BASE = "seed=1&yaw=0.1"
DIFFERENT = ("seed=2&yaw=0.1", f"{BASE}&truncation=0", f"{BASE}&pitch=1.3", "seed=1&yaw=-0.4", f"{BASE}&fov=15",
             f"{BASE}&radius=0.9", f"{BASE}&show=depth", f"{BASE}&show=normals", f"{BASE}&show=opacity",
             f"{BASE}&parts=foreground", f"{BASE}&parts=background", f"{BASE}&strict=1", f"{BASE}&samples=12",
             f"{BASE}&mix=5", f"{BASE}&mix=5&mix_rows=geometry", f"{BASE}&mix=5&mix_rows=appearance",
             f"{BASE}&mix=5&mix_rows=fine", f"{BASE}&mix=5&mix_amount=0.5")  # fmt: skip


@pytest.mark.parametrize("query", DIFFERENT)
def test_each_parameter_tells(server: Server, query: str) -> None:
    base, other = ask(server, f"/api/image?{BASE}"), ask(server, f"/api/image?{query}")
    assert other.status == 200, other.content
    assert other.image.tobytes() != base.image.tobytes()


@pytest.mark.parametrize("rest", ["mix=5&mix_amount=0", "mix=1&truncation=0.7", "yaw=0&pitch=1.55&fov=30&radius=1"])
def test_what_changes_nothing_changes_nothing(server: Server, rest: str) -> None:
    assert ask(server, f"/api/image?seed=1&{rest}").content == ask(server, "/api/image?seed=1").content


def test_mixing_all_rows_is_the_other_subject_before_the_same_background(server: Server) -> None:
    rows = style_rows(server.studio.model)
    assert sorted(i for part in rows.values() for i in part) == list(
        range(server.studio.model.generator.synthesis.num_ws)
    )
    wanted = ask(server, "/api/image?seed=5&parts=foreground").content
    assert ask(server, "/api/image?seed=1&mix=5&parts=foreground").content == wanted


def test_an_amount_is_remembered_apart(server: Server) -> None:
    answers = [ask(server, f"/api/image?seed=1&mix=5&mix_amount={amount}").content for amount in ("0.2", "0.6", "1")]
    assert len(set(answers)) == 3


@pytest.mark.parametrize(("query", "edge"), [("", 16), ("&strict=1", 16), ("&strict=1&resolution=40", 40),
                                             ("&show=depth", 8), ("&show=depth&download=1", 16)])  # fmt: skip
def test_sizes(server: Server, query: str, edge: int) -> None:
    answer = ask(server, f"/api/image?seed=0{query}")
    assert answer.image.size == (edge, edge) and answer.headers["X-Edge"] == str(edge)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(server: Server, kind: str) -> None:
    answer = ask(server, f"/api/image?seed=0&format={kind}")
    assert answer.headers["Content-Type"] == f"image/{kind}" and answer.image.format == kind.upper()
    seen, exact = (np.asarray(a.image.convert("RGB"), np.float64) for a in (answer, ask(server, "/api/image?seed=0")))
    assert np.abs(seen - exact).mean() < (0.5 if kind == "png" else 12)  # of 255; noise compresses badly


def test_a_screenshot_says_what_it_shows(server: Server) -> None:
    answer = ask(server, "/api/image?seed=12&show=depth&strict=1&resolution=32&download=1")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="seed-12-depth-strict.png"'
    note = json.loads(answer.image.info["stylenerf"])
    assert (note["seed"], note["show"], note["resolution"], note["truncation"]) == (12, "depth", 32, 0.7)


def test_a_subject_goes_into_other_commands(server: Server, tmp_path: Path) -> None:
    query = "seed=4&yaw=0.3&mix=5&mix_rows=appearance"
    answer = ask(server, f"/api/subject?{query}")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="seed-4.npz"'
    (tmp_path / "s.npz").write_bytes(answer.content)
    subjects, camera = load_subjects(tmp_path / "s.npz", server.studio.model)
    assert camera is not None
    image = render_view(server.studio.model, subjects, camera).image
    assert to_pillow(image)[0].tobytes() == ask(server, f"/api/image?{query}").image.tobytes()


def test_the_model_in_numbers(server: Server) -> None:
    about = ask(server, "/api/model").json
    assert (about["resolution"], about["rays"], about["labels"], about["strict"]) == (16, 8, 0, True)
    assert about["yaw"] == list(PRIOR.yaw) and about["pitch"] == list(PRIOR.pitch) and about["fov"]["own"] == 30
    assert about["samples"] == {"own": 3, "range": [3, 64]} and about["resolutions"][0] == 16
    assert about["parts"] == ["all", "foreground", "background"] and about["rows"] == ["geometry", "appearance", "fine"]


def test_a_conditional_model_and_one_without_background_or_strict_pixels() -> None:
    upsampler = {"channel_base": 128, "channel_max": 8, "kernel_size": 3}
    with serving(label_dim=3, background={"kind": "none"}, upsampler=upsampler) as other:
        about = ask(other, "/api/model").json
        assert (about["labels"], about["parts"], about["strict"]) == (3, ["all", "foreground"], False)
        first, second = (ask(other, f"/api/image?label={k}") for k in (0, 1))
        assert first.content == ask(other, "/api/image").content != second.content
        assert "label: wanted a whole number of 0 to 2, got '3'" in ask(other, "/api/image?label=3").json["error"]
        assert ask(other, "/api/image?parts=background").json["parameter"] == "parts"
        assert ask(other, "/api/image?strict=1").json["error"].startswith("strict: wanted a model whose upsampler has")


def test_angles_that_are_no_angles_are_radians_on_the_page() -> None:
    model = tiny_model()
    prior = CameraPrior("uniform", yaw=(0.0, 0.5), pitch=(0.25, 0.5), fov_deg=30.0, angular=False)
    studio = Studio(type(model)(model.generator, prior, model.path, {}))
    try:
        about = studio.describe()
        assert about["yaw"] == pytest.approx((0, math.pi)) and about["pitch"] == pytest.approx(
            (math.pi / 3, math.pi / 2)
        )
    finally:
        studio.close()


# what is refused

WRONG = {
    "seed=x": "seed: wanted a whole number of 0 to 9007199254740991, got 'x'",
    "seed=": "seed: wanted a whole number of 0 to 9007199254740991, got nothing",
    "seed=-1": "seed: wanted .* got '-1'",
    "seed=9007199254740992": "seed: wanted",
    "seed=٣": "seed: wanted",
    f"seed={'1' * 5000}": "seed: wanted .* got '1{40}'",
    "seed=1&seed=2": "seed: wanted once, got twice",
    "seeds=1": "seeds: wanted one of seed, truncation, .*, got another parameter",
    "%0a%1b=1": r"\?\?: wanted one of",
    "label=0": "label: wanted one of",
    "truncation=1.6": "truncation: wanted a number of 0 to 1.5, got '1.6'",
    "truncation=nan": "truncation: wanted",
    "yaw=inf": "yaw: wanted a number of -100 to 100 radians, got 'inf'",
    "yaw=1_0": "yaw: wanted",
    "pitch=3.2": "pitch: wanted a number of 0 to 3.14159 radians",
    "fov=0": "fov: wanted a number of 1 to 120 degrees, got '0'",
    "radius=0.1": "radius: wanted a number of 0.5 to 2 world units",
    "show=color": "show: wanted one of colour, depth, normals, opacity, got 'color'",
    "parts=none": "parts: wanted one of all, foreground, background",
    "mix=1&mix_rows=a": "mix_rows: wanted some of geometry,appearance,fine, got 'a'",
    "mix=1&mix_rows=fine,fine": "mix_rows: wanted",
    "mix_amount=2": "mix_amount: wanted",
    "strict=yes": "strict: wanted 0 or 1, got 'yes'",
    "strict=1&resolution=1025": "resolution: wanted a whole number of 8 to 1024, got '1025'",
    "resolution=32": "resolution: wanted with strict=1 only",
    "samples=2": "samples: wanted a whole number of 3 to 64, got '2'",
    "samples=65": "samples: wanted",
    "format=gif": "format: wanted one of png, jpeg, webp, got 'gif'",
    "client=a/b": "client: wanted at most 40 letters and digits, got 'a/b'",
    "turn=1.5": "turn: wanted",
    "seed": "query: wanted name=value&...",
    "&".join(f"a{i}=1" for i in range(50)): "query: wanted",
}  # fmt: skip


@pytest.mark.parametrize("query", WRONG)
def test_a_wrong_parameter_is_one_line_that_names_it(server: Server, query: str) -> None:
    answer = ask(server, f"/api/image?{urllib.request.quote(query, safe='=&%,')}")  # type: ignore[attr-defined]
    assert answer.status == 400 and answer.headers["Content-Type"] == "application/json"
    error = answer.json["error"]
    assert re.match(WRONG[query], error), error
    assert error.isprintable() and len(error) < 400 and error.startswith(answer.json["parameter"])


@pytest.mark.parametrize("path", ["/x", "/api", "/api/video/1", "/../look.py", "/page.html", "/api/model/"])
def test_another_address_is_not_found(server: Server, path: str) -> None:
    answer = ask(server, path)
    assert answer.status == 404 and "error" in answer.json


@pytest.mark.parametrize(("path", "method"), [("/", "POST"), ("/api/image", "POST"), ("/api/video", "GET")])
def test_another_method_is_not_found(server: Server, path: str, method: str) -> None:
    assert ask(server, path, method).status == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_an_unknown_method_is_one_line(server: Server, method: str) -> None:
    answer = ask(server, "/api/model", method)
    assert answer.status == 501 and "error" in answer.json


def test_a_body_is_refused(server: Server) -> None:
    answer = ask(server, "/api/video", "POST", body=b"x" * 10, Content_Type="text/plain")
    assert answer.status == 400 and answer.json["error"] == "body: wanted none, got one"
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:80", "192.168.1.7:8000"])
def test_names_of_this_machine_and_numbers_are_let_in(server: Server, host: str) -> None:
    assert ask(server, "/api/model", Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "a b", "x@127.0.0.1", "::1"]
)
def test_another_name_bound_to_this_address_gets_nothing(server: Server, host: str) -> None:
    answer = ask(server, "/api/model", Host=host)
    assert answer.status == 403 and answer.json["error"].startswith("Host: wanted localhost")
    assert ask(server, "/", Host=host).status == 403


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"},
                                     {"Origin": "http://127.0.0.1:1"}, {"Sec_Fetch_Site": "cross-site"},
                                     {"Sec_Fetch_Site": "same-site"}])  # fmt: skip
def test_a_page_of_another_origin_gets_nothing(server: Server, headers: dict[str, str]) -> None:
    assert ask(server, "/api/model", **headers).status == 403
    assert ask(server, "/api/video?frames=2", "POST", **headers).status == 403


def test_our_own_page_is_let_in_and_others_may_link_to_it(server: Server) -> None:
    own = {"Origin": server.url.rstrip("/"), "Sec_Fetch_Site": "same-origin"}
    assert ask(server, "/api/model", **own).status == 200
    assert ask(server, "/", Sec_Fetch_Site="cross-site").status == 200


@pytest.mark.parametrize("path", ["/", "/page.js", "/canvas.js", "/files.js", "/page.css", "/icon.svg", "/api/model"])
def test_nothing_of_another_site_runs_in_the_page(server: Server, path: str) -> None:
    answer = ask(server, path)
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status == 200 and policy.startswith("default-src 'none';") and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and answer.headers["X-Content-Type-Options"] == "nosniff"
    text = answer.content.decode().replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text and "https:" not in text and " style=" not in text and "onclick" not in text


def test_an_error_of_the_model_is_one_line_and_the_viewer_lives_on(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nmemory")

    with monkeypatch.context() as patched:
        patched.setattr("stylenerf.engine.applications.view.studio.render_view", broken)
        answer = ask(server, "/api/image?seed=0")
    assert answer.status == 500 and answer.json["error"] == "RuntimeError: out of memory"
    assert capsys.readouterr().err == "error: RuntimeError: out of memory\n"
    assert ask(server, "/api/image?seed=0").status == 200


def test_connections_are_limited(server: Server) -> None:
    address = ("127.0.0.1", server.server_port)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 8):
            stack.enter_context(contextlib.closing(socket.create_connection(address, timeout=10)))
        with pytest.raises((urllib.error.URLError, ConnectionError, OSError)):
            ask(server, "/api/model")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, OSError):
            if ask(server, "/api/model").status == 200:
                return
        time.sleep(0.02)
    pytest.fail("connections that were closed are still counted")


# what is given up


@pytest.fixture
def held(server: Server) -> Iterator[threading.Event]:
    """The rendering thread is busy until the event is set."""
    event = threading.Event()
    busy = server.studio._worker.submit(event.wait, 20)
    yield event
    event.set()
    busy.result()


def test_the_newest_request_of_a_client_wins(server: Server, held: threading.Event) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = [f"/api/image?seed={i}&client=me&turn={i}" for i in (1, 2, 3)] + ["/api/image?seed=9&client=you&turn=1"]
        waiting = []
        for path in paths:
            waiting.append(pool.submit(ask, server, path))
            wanted = path.rpartition("client=")[2].partition("&")[0], int(path.rpartition("=")[2])
            until(lambda wanted=wanted: server.studio._newest.get(wanted[0], 0) >= wanted[1])  # type: ignore[misc]
        held.set()
        answers = [w.result() for w in waiting]
    assert [a.status for a in answers] == [204, 204, 200, 200]
    assert answers[0].content == b"" and answers[2].content == ask(server, "/api/image?seed=3").content
    assert ask(server, "/api/image?seed=1&client=me&turn=2").status == 204  # late, not new


def test_a_strict_picture_is_given_up_between_tiles(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    studio, synthesis, tiles = server.studio, server.studio.model.generator.synthesis, []
    whole = synthesis.strict

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        tiles.append(1)
        studio.take_note("tile", 9)
        return whole(*args, **kwargs)

    monkeypatch.setattr(synthesis, "strict", overtaken)
    with pytest.raises(Stale):
        studio.picture(Look(strict=True, resolution=128), "tile", 8)
    assert len(tiles) == 1  # of 4


def test_clients_are_forgotten_in_time(server: Server) -> None:
    for i in range(300):
        server.studio.take_note(f"client{i}", 1)
    assert len(server.studio._newest) == 256 and "client299" in server.studio._newest


# begin and end


def test_a_port_in_use_is_one_line(server: Server) -> None:
    with pytest.raises(UserError, match=rf"^--port: wanted a free one, got {server.server_port}, which is in use"):
        Server(port=server.server_port)


NOWHERE: dict[str, dict[str, Any]] = {
    "--port: wanted 0 to 65535, got 65536": {"port": 65536},
    "--host: wanted an address of this machine, got '192.0.2.1'": {"host": "192.0.2.1"},
    "--host: wanted an address of this machine, got 'no such host'": {"host": "no such host"},
}


@pytest.mark.parametrize("message", NOWHERE)
def test_an_address_that_cannot_be_had_is_one_line(message: str) -> None:
    with pytest.raises(UserError, match=message):
        Server(**{"port": 0, **NOWHERE[message]})


def test_the_end_does_not_wait_for_a_long_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as ending:
        begun, whole, tiles = threading.Event(), BakedSubject.render, []

        def slow(*args: Any, **kwargs: Any) -> Any:
            begun.set()
            tiles.append(args)
            time.sleep(0.05)
            return whole(*args, **kwargs)

        monkeypatch.setattr(BakedSubject, "render", slow)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ending.studio.picture, Look(strict=True, resolution=1024))  # 64 tiles
            assert begun.wait(60)
            ending.studio.close()
            with pytest.raises(Closing):
                waiting.result()
            assert len(tiles) < 32
        assert ask(ending, "/api/image?seed=0").status == 503
