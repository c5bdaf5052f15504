"""The page in a real browser: what a visitor presses, drags and types reaches the picture."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Browser, find_browser
from tests.viewing import serving

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine (apt-get install chromium)")

STATE = "document.getElementById('canvas').dataset"


class Page:
    """A browser at the viewer."""

    def __init__(self, browser: Browser, url: str, downloads: Path) -> None:
        self.browser, self.url, self.downloads = browser, url, downloads

    def fresh(self, address: str = "") -> None:
        """The page as a first visitor sees it."""
        self.browser.open("about:blank")
        self.browser.open(self.url + address)
        self.browser.wait("document.getElementById('canvas')?.dataset.shown")
        self.rest()

    def rest(self) -> None:
        """Wait until the picture shows the state and nothing is under way."""
        self.browser.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        self.browser.wait(f"{STATE}.rests === '1'")

    def pixels(self) -> str:
        self.rest()
        return str(self.browser.run("document.getElementById('canvas').toDataURL()"))

    def press(self, selector: str) -> None:
        """Click in the middle of an element, as a hand would."""
        self.browser.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.mouse(kind, x, y, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.browser.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})")
        return x, y

    def text(self, selector: str) -> str:
        return str(self.browser.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def kept(self, name: str) -> Path:
        """A download, once it is whole."""
        path = self.downloads / name
        for _ in range(600):
            if path.exists():
                return path
            self.browser.run("new Promise((done) => setTimeout(done, 20))")
        raise AssertionError(f"{name} did not come, only {[p.name for p in self.downloads.iterdir()]}")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with serving() as server:
        browser = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
        try:
            downloads = tmp_path_factory.mktemp("downloads")
            browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
            page = Page(browser, server.url, downloads)
            page.fresh()
            yield page
        finally:
            browser.close()


@pytest.fixture(autouse=True)
def in_silence(page: Page) -> Iterator[None]:
    """Whatever a test does, nothing is said on the console."""
    yield
    assert page.browser.complaints() == []


def test_the_page_shows_the_model_and_its_picture(page: Page) -> None:
    page.fresh()
    assert page.text("#name") == "tiny" and "16 px" in page.text("#facts") and "rendered in" in page.text("#status")
    colours = "new Set(document.getElementById('canvas').getContext('2d').getImageData(0, 0, 200, 200).data).size"
    assert page.browser.run(colours) > 20


def test_a_drag_orbits_and_a_double_click_comes_back(page: Page) -> None:
    page.fresh()
    before, readout = page.pixels(), page.text("#readout")
    x, y = page.middle("#canvas")
    page.browser.drag(x, y, 120, 40)
    page.rest()
    assert page.pixels() != before and page.text("#readout") != readout
    page.browser.wait("location.hash.includes('yaw=-')")
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.browser.mouse(kind, x, y, button="left", clickCount=count)
    page.browser.wait(f"document.getElementById('readout').textContent === {json.dumps(readout)}")
    assert page.pixels() == before


def test_the_wheel_zooms(page: Page) -> None:
    page.fresh()
    before = page.pixels()
    page.browser.mouse("mouseWheel", 300, 300, deltaX=0, deltaY=-200)
    page.browser.wait("document.getElementById('readout').textContent.includes('zoom 1.3')")
    assert page.pixels() != before


def test_seeds(page: Page) -> None:
    page.fresh()
    before = page.pixels()
    page.press('[data-do="next"]')
    second = page.pixels()
    assert second != before
    page.press('[data-do="previous"]')
    assert page.pixels() == before
    page.press("#seed")
    page.browser.run("document.getElementById('seed').select()")
    page.browser.call("Input.insertText", text="1")
    assert page.pixels() == second
    page.browser.call("Input.insertText", text="x")
    assert page.browser.run("document.getElementById('seed').getAttribute('aria-invalid')") == "true"
    assert page.pixels() == second  # what is no seed changes nothing


SLOW = pytest.mark.slow


@pytest.mark.parametrize("what", ["depth", pytest.param("normals", marks=SLOW), pytest.param("opacity", marks=SLOW)])
def test_surfaces_are_shown_and_sharpen(page: Page, what: str) -> None:
    page.fresh()
    before = page.pixels()
    page.press(f'[name="show"][value="{what}"] + span')
    page.browser.wait(f"{STATE}.fine === '1'")
    assert page.pixels() != before and page.browser.run(f"{STATE}.edge") == "16"
    page.browser.key("c")
    assert page.pixels() == before


def test_strict_pixels_come_once_the_camera_rests(page: Page) -> None:
    page.fresh()
    before = page.pixels()
    page.press("label[for=strict]")
    page.browser.run("document.getElementById('resolution').value = '64'")
    page.browser.run("document.getElementById('resolution').dispatchEvent(new Event('change'))")
    page.browser.wait(f"{STATE}.edge === '64' && {STATE}.fine === '1'")
    strict = page.pixels()
    assert strict != before and "strict" in page.text("#status")
    page.browser.key("ArrowLeft")
    assert page.pixels() not in (before, strict)
    page.browser.key("s")
    page.browser.key("0")
    page.browser.wait(f"{STATE}.fine === '0'")
    assert page.pixels() == before


def test_quick_strict_pictures_follow_the_camera(page: Page) -> None:
    page.fresh("#strict=1&resolution=16")
    page.browser.wait(f"{STATE}.fine === '1'")
    alone = 0
    for _ in range(20):  # a busy machine may be slow now and then
        before = int(page.browser.run(f"{STATE}.shown"))
        page.browser.key("ArrowLeft")
        page.rest()
        assert page.browser.run(f"{STATE}.fine") == "1"
        alone += int(page.browser.run(f"{STATE}.shown")) == before + 1  # no fast picture came first
        if alone:
            return
    raise AssertionError("every strict picture came after a fast one")


@pytest.mark.slow
def test_styles_mix(page: Page) -> None:
    page.fresh("#mix=5")
    before = page.pixels()
    page.browser.run("document.getElementById('mixing').open = true")
    page.press("label[for=mix-on]")
    whole = page.pixels()
    page.press("#rows input[value=geometry] + span")
    assert len({before, whole, page.pixels()}) == 3 and page.text("#mix-state") == "seed 5, 100 %"


@pytest.mark.slow
def test_the_camera_turns_by_itself(page: Page) -> None:
    page.fresh()
    before = page.pixels()
    page.browser.key(" ")
    page.browser.wait(f"Number({STATE}.shown) > 8")
    page.browser.key(" ")
    assert page.pixels() != before and page.browser.run("document.getElementById('turn').ariaPressed") == "false"


def test_an_address_shows_what_its_sender_saw(page: Page) -> None:
    page.fresh("#seed=3&show=depth&yaw=0.5&strict=1&resolution=32")
    sent = page.pixels()
    page.fresh("#seed=4")
    assert page.pixels() != sent
    page.browser.run("location.hash = 'seed=3&show=depth&yaw=0.5&strict=1&resolution=32'")
    page.browser.wait(f"{STATE}.edge === '32'")
    assert page.pixels() == sent
    page.fresh("#seed=x&show=color&yaw=zz&fov=1e9&rows=&samples=1e5&resolution=7&bogus=1")
    assert page.text("#name") == "tiny"  # nonsense in an address is left aside


def test_a_screenshot_and_a_film_are_kept(page: Page) -> None:
    page.fresh("#seed=6&strict=1&resolution=32")
    page.press('[data-do="screenshot"]')
    picture = Image.open(io.BytesIO(page.kept("seed-6-strict.png").read_bytes()))
    assert picture.size == (32, 32) and json.loads(picture.info["stylenerf"])["seed"] == 6  # type: ignore[attr-defined]
    page.press('[data-do="subject"]')
    assert page.kept("seed-6.npz").stat().st_size > 0
    page.browser.run("document.getElementById('film-frames').value = '24'")
    page.press("#film")
    page.browser.wait("!document.getElementById('film-result').hidden")
    films = [p for p in page.downloads.iterdir() if p.name.startswith("film-")] or [page.kept("film-1.webp")]
    assert getattr(Image.open(films[0]), "n_frames", 1) == 24


@pytest.mark.slow
def test_keys_are_explained(page: Page) -> None:
    page.fresh()
    page.browser.key("?")
    assert page.browser.wait("document.getElementById('help').open")
    page.press("#help button")
    page.browser.wait("!document.getElementById('help').open")


CONTROLS = {
    "button",
    "slider",
    "textbox",
    "combobox",
    "switch",
    "radio",
    "checkbox",
    "application",
    "DisclosureTriangle",
}


def test_every_control_has_a_name(page: Page) -> None:
    page.fresh()
    page.browser.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    nodes = page.browser.call("Accessibility.getFullAXTree")["nodes"]
    found = [(n["role"]["value"], n["name"]["value"]) for n in nodes if n["role"]["value"] in CONTROLS]
    assert {role for role, _ in found} == CONTROLS and len(found) > 30
    assert [role for role, name in found if not name.strip()] == []


@pytest.mark.parametrize("width", [320, *(pytest.param(w, marks=SLOW) for w in (390, 860, 1280))])
def test_nothing_stands_out_on_any_width(page: Page, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.browser.call("Emulation.setDeviceMetricsOverride", **size)
    try:
        page.fresh()
        assert page.browser.run("document.documentElement.scrollWidth") <= width
        left, right = page.browser.run(
            "(({left, right}) => [left, right])(document.getElementById('canvas').getBoundingClientRect())"
        )
        assert 0 <= left < right <= width and right - left > 0.5 * min(width, 600)
    finally:
        page.browser.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.slow
def test_the_page_goes_on_when_the_viewer_was_started_again(page: Page) -> None:
    with serving() as first:
        port = first.server_port
        page.browser.open(first.url + "#seed=2")
        page.browser.wait("document.getElementById('canvas')?.dataset.shown")
    page.press('[data-do="next"]')
    page.browser.wait("document.getElementById('status').textContent.startsWith('The viewer does not answer')")
    page.browser.run("document.getElementById('canvas').dataset.shown = ''")
    with serving(port):
        page.browser.wait("document.getElementById('canvas')?.dataset.shown")
        assert page.browser.run("document.getElementById('seed').value") == "3"
        page.browser.open("about:blank")
    page.browser.events.clear()  # the browser complains about the silence in between
