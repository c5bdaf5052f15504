"""Constructor arguments of wrong types: every one is refused by its key, in words of ours."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from stylenerf.engine.applications.convert.generator import Converted, convert_network
from stylenerf.engine.applications.convert.snapshot import Snapshot, read_snapshot
from stylenerf.engine.errors import UserError
from stylenerf.models.official import IGNORED
from stylenerf.models.official_arguments import GENERATOR
from tests import snapshots as s
from tests.public_forms import BASE, changed, inside, paths, recorded_kwargs, small

KWARGS = recorded_kwargs(BASE)
NAN = math.nan
WRONG: dict[type, list[Any]] = {
    bool: [None, "x", 1, NAN, -1, [], {}],
    int: [None, "x", "1", True, NAN, math.inf, -1, 1.5, [], [1], {}, {"a": 1}],
    float: [None, "x", "1", True, NAN, math.inf, -1, [], [1], {}, {"a": 1}],
    str: [None, "x", 1, True, NAN, -1, [], {}],
    list: [None, "ab", True, NAN, -1, [], [1], [1, "x"], [NAN, 1], [True, 2], [1, 2, 3], [2, 1], {}, {"a": 1, "b": 2}],
    dict: ["x", "", True, False, 0, NAN, -1, 1.5, [], [1], [["a", 1]]],
    type(None): ["x", True, NAN, -1, [], {}],
}
# absent, or a value of its own
NONE_MEANS = {
    "z_dim", "c_dim", "w_dim", "img_resolution", "mapping_kwargs.num_layers", *(f"synthesis_kwargs.{name}" for name in (
        "conv_clamp", "kernel_size", "upsample_mode", "magnitude_ema_beta", "z_dim_bg", "resolution_vol",
        "resolution_start",
    )),
}  # fmt: skip
PHRASES = "not supported|object|unsupported|argument must|convert|sequence|iterable|public code takes|Traceback"


def ignored(name: str) -> bool:
    """Whether the argument has no effect, so that any value will do."""
    *sections, last = name.split(".")
    section = sections[-1] if sections else ""
    return last in IGNORED.get(section.removesuffix("_kwargs"), ()) and last not in GENERATOR.get(section, ())


def means_something(name: str, value: Any) -> bool:
    own = {"magnitude_ema_beta": -1, "fov": 1.5}
    return (value is None and name in NONE_MEANS) or value == own.get(name.split(".")[-1], ...)


def wrong() -> list[Any]:
    cases = []
    for name in paths(KWARGS):
        section, last = inside(KWARGS, name)
        for value in WRONG[type(section[last])]:
            if not ignored(name) and not means_something(name, value):
                cases.append(pytest.param(name, value, id=f"{name}={value!r}"))
    return cases


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    with s.public_modules():
        file = tmp_path_factory.mktemp("arguments") / "x.pkl"
        return read_snapshot(s.write_snapshot(file, {"G_ema": s.generator(KWARGS, small()[1])}))


def with_arguments(snapshot: Snapshot, kwargs: dict[str, Any]) -> Converted:
    """The snapshot's network, converted as if it had recorded ``kwargs``."""
    network = snapshot.network("G_ema")
    changed_network = replace(network, state={**network.state, "_init_kwargs": kwargs})
    return convert_network(replace(snapshot, objects={"G_ema": changed_network}))


@pytest.mark.parametrize("name, value", wrong())
def test_a_wrong_type_is_refused_by_its_key(name: str, value: Any, honest: Snapshot) -> None:
    with pytest.raises(UserError) as caught:
        with_arguments(honest, changed(KWARGS, name, value))
    text = str(caught.value).removeprefix(f"{honest.path}: G_ema: ")
    assert text.isprintable() and len(text) < 400
    assert re.match(rf"(\w+\.)?{name.split('.')[-1]}: wanted .*, got ", text), text
    assert not re.search(PHRASES, text), text


@pytest.mark.parametrize("name", [name for name in paths(KWARGS) if ignored(name)])
def test_what_has_no_effect_may_be_anything(name: str, honest: Snapshot) -> None:
    for value in (None, "x", NAN, [], {}):
        assert with_arguments(honest, changed(KWARGS, name, value)).generator.cfg == BASE


@pytest.mark.parametrize("name", sorted(NONE_MEANS - {"synthesis_kwargs.conv_clamp"}))
def test_none_is_as_good_as_left_out(name: str, honest: Snapshot) -> None:
    assert with_arguments(honest, changed(KWARGS, name, None)).generator.cfg == BASE


def test_the_sweep_covers_the_table() -> None:
    table = {f"{section}.{name}" if section else name for section, names in GENERATOR.items() for name in names}
    swept = {".".join(name.split(".")[-2:]) for name in paths(KWARGS)}
    assert table <= swept


@pytest.mark.parametrize("name", ["channel_base", "channel_max", "upsampler_kwargs.channel_base", "resolution_vol"])
def test_long_text_for_a_number_is_not_multiplied(name: str, honest: Snapshot) -> None:
    with pytest.raises(UserError, match=rf"{name}: wanted a .*number .*, got '9{{60,}}\.\.\."):
        with_arguments(honest, changed(KWARGS, f"synthesis_kwargs.{name}", "9" * 2**19))


@pytest.mark.parametrize("name", ["range_u", "n_ray_samples"])
def test_older_arguments_one_level_higher_are_checked_too(name: str, honest: Snapshot) -> None:
    kwargs = changed(KWARGS, "synthesis_kwargs.camera_kwargs", {})
    kwargs["synthesis_kwargs"] |= {name: "x", "renderer_kwargs": None}
    with pytest.raises(UserError, match=rf"_kwargs.{name}: wanted .*numbers?.*, got 'x'"):
        with_arguments(honest, kwargs)
