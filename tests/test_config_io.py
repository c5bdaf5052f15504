"""Dataclass ↔ mapping ↔ YAML: what is accepted, and what each refusal says."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stylenerf.engine.errors import UserError
from stylenerf.engine.training.config_io import (
    RENAMED,
    apply_overrides,
    from_dict,
    list_presets,
    load_file,
    load_preset,
    merge,
    read_yaml,
    to_dict,
    with_present_names,
)


@dataclass(frozen=True)
class Camera:
    fov_deg: float = 12.0
    range_rad: tuple[float, float] = (-0.3, 0.3)

    def __post_init__(self) -> None:
        if not 0 < self.fov_deg < 180:
            raise ValueError(f"fov_deg: wanted 0 < fov_deg < 180,\ngot {self.fov_deg}")


@dataclass(frozen=True)
class Train:
    batch: int = 4
    lr: float = 2e-3
    compile: bool = False
    mode: Literal["auto", "ref", 2] = "auto"
    milestones: tuple[int, ...] = ()
    tags: list[str] = field(default_factory=list)
    clip: float | None = None
    seed: int | Literal["random"] = 0
    either: float | int = 1.0


@dataclass(frozen=True)
class Run:
    name: str
    train: Train = field(default_factory=Train)
    camera: Camera | None = None
    words: str | list[int] | None = None


def run(**data: Any) -> Run:
    return from_dict(Run, {"name": "x", **data})


def train(**data: Any) -> Train:
    return from_dict(Train, data, where="train")


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


ACCEPTED = {
    "int_as_float": ("lr", 1, 1.0),
    "text_as_float": ("lr", "1e-8", 1e-8),
    "signed_text_as_float": ("lr", "-2.5E+3", -2500.0),
    "text_in_optional_float": ("clip", "1e3", 1000.0),
    "null": ("clip", None, None),
    "literal_text": ("mode", "ref", "ref"),
    "literal_number": ("mode", 2, 2),
    "list_as_tuple": ("milestones", [1, 2, 3], (1, 2, 3)),
    "empty_list": ("milestones", [], ()),
    "list": ("tags", ["a", "b"], ["a", "b"]),
    "union_int": ("seed", 7, 7),
    "union_literal": ("seed", "random", "random"),
    "union_keeps_the_exact_type": ("either", 3, 3),
    "union_converts_last": ("either", "2.5", 2.5),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts(case: str) -> None:
    key, given_value, wanted = ACCEPTED[case]
    got = getattr(train(**{key: given_value}), key)
    assert got == wanted
    assert type(got) is type(wanted)


REFUSED = {
    "text_for_int": ("batch", "4", "train.batch: wanted int, got '4'"),
    "float_for_int": ("batch", 4.0, "train.batch: wanted int, got 4.0"),
    "bool_for_int": ("batch", True, "train.batch: wanted int, got True"),
    "bool_for_float": ("lr", False, "train.lr: wanted float, got False"),
    "words_for_float": ("lr", "fast", "train.lr: wanted float, got 'fast'"),
    "underscores_for_float": ("lr", "1_0.", "train.lr: wanted float, got '1_0.'"),
    "nan_text_for_float": ("lr", "nan", "train.lr: wanted float, got 'nan'"),
    "infinity": ("lr", float("inf"), "train.lr: wanted a finite float, got inf"),
    "overflow_text": ("lr", "1e999", "train.lr: wanted float, got '1e999'"),
    "overflow_int": ("lr", 10**400, "train.lr: wanted float, got 1000"),
    "null_for_float": ("lr", None, "train.lr: wanted float, got null"),
    "int_for_bool": ("compile", 1, "train.compile: wanted true or false, got 1"),
    "literal": ("mode", "fast", "train.mode: wanted one of 'auto', 'ref', 2, got 'fast'"),
    "literal_bool_is_no_number": ("mode", 2.0, "train.mode: wanted one of 'auto', 'ref', 2, got 2.0"),
    "scalar_for_list": ("milestones", 3, "train.milestones: wanted list of int, got 3"),
    "item": ("milestones", [1, "b"], r"train.milestones\[1\]: wanted int, got 'b'"),
    "text_for_list": ("tags", "ab", "train.tags: wanted list of string, got 'ab'"),
    "union": ("clip", "wide", "train.clip: wanted float or null, got 'wide'"),
    "union_of_literal": ("seed", "x", "train.seed: wanted int or 'random', got 'x'"),
    "unknown": ("bach", 4, "train.bach: unknown key; known here: batch, lr, .*either; did you mean batch?"),
    "unknown_without_neighbour": ("zzz", 4, "train.zzz: unknown key; known here: batch, .*, either$"),
    "long_value": ("batch", "a" * 500, r"train.batch: wanted int, got 'a{76}\.\.\.$"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    key, value, message = REFUSED[case]
    with pytest.raises(UserError, match="^" + message):
        train(**{key: value})


NESTED_REFUSED: dict[str, tuple[dict[Any, Any], str]] = {
    "section": ({"train": 3}, "config.train: wanted a section with the keys batch, lr, .*, got 3"),
    "deep": ({"train": {"lr": []}}, r"config.train.lr: wanted float, got \[\]"),
    "inside_an_optional_section": ({"camera": {"fov": 3}}, "config.camera.fov: unknown key; .*did you mean fov_deg"),
    "pair_too_long": (
        {"camera": {"range_rad": [1, 2, 3]}},
        r"config.camera.range_rad: wanted list of 2 \(float, float\)",
    ),
    "pair_item": ({"camera": {"range_rad": [1, "b"]}}, r"config.camera.range_rad\[1\]: wanted float, got 'b'"),
    "list_in_a_union": ({"words": [1, "b"]}, r"config.words\[1\]: wanted int, got 'b'"),
    "post_init": ({"camera": {"fov_deg": 180}}, "config.camera: fov_deg: wanted 0 < fov_deg < 180, got 180.0$"),
    "key_that_is_no_text": ({3: 4}, "config.3: unknown key"),
}


@pytest.mark.parametrize("case", NESTED_REFUSED)
def test_refuses_nested(case: str) -> None:
    data, message = NESTED_REFUSED[case]
    with pytest.raises(UserError, match="^" + message) as caught:
        from_dict(Run, {"name": "x", **data})
    assert "\n" not in str(caught.value)


def test_missing_key_and_empty_where() -> None:
    with pytest.raises(UserError, match=r"^config\.name: wanted string, got nothing$"):
        from_dict(Run, {})
    with pytest.raises(UserError, match=r"^name: wanted string, got nothing$"):
        from_dict(Run, {}, where="")
    with pytest.raises(UserError, match=r"^config: wanted a section with the keys name, .*, got null$"):
        from_dict(Run, None)


def test_unsupported_field_type_is_a_fault_of_the_program() -> None:
    @dataclass(frozen=True)
    class Odd:
        paths: dict[str, int] = field(default_factory=dict)

    with pytest.raises(TypeError, match=r"dict\[str, int\] is not supported"):
        from_dict(Odd, {"paths": 3})
    with pytest.raises(TypeError, match="plain values"):
        to_dict(Odd())
    with pytest.raises(TypeError, match="dataclass instance"):
        to_dict({"a": 1})


finite = st.floats(allow_nan=False, allow_infinity=False)
trains = st.builds(
    Train,
    batch=st.integers(),
    lr=finite,
    compile=st.booleans(),
    mode=st.sampled_from(["auto", "ref", 2]),
    milestones=st.lists(st.integers()).map(tuple),
    tags=st.lists(st.text()),
    clip=st.none() | finite,
    seed=st.integers() | st.just("random"),
    either=finite | st.integers(),
)
cameras = st.none() | st.builds(Camera, fov_deg=st.floats(1, 179), range_rad=st.tuples(finite, finite))


@given(
    st.builds(Run, name=st.text(), train=trains, camera=cameras, words=st.none() | st.text() | st.lists(st.integers()))
)
def test_round_trip_through_json_and_yaml(cfg: Run) -> None:
    plain = to_dict(cfg)
    assert from_dict(Run, json.loads(json.dumps(plain, allow_nan=False))) == cfg
    assert from_dict(Run, yaml.safe_load(yaml.safe_dump(plain))) == cfg


def test_to_dict_is_nested_and_has_no_tuples() -> None:
    plain = to_dict(run(camera={}))
    assert plain["camera"] == {"fov_deg": 12.0, "range_rad": [-0.3, 0.3]}
    assert list(plain) == ["name", "train", "camera", "words"]


def test_result_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        run().name = "y"  # type: ignore[misc]


def test_merge_is_deep_and_leaves_its_arguments_alone() -> None:
    a: dict[str, Any] = {"x": {"p": 1, "q": [1, 2]}, "y": None, "z": 3, "w": [1]}
    b: dict[str, Any] = {"x": {"q": [3]}, "y": {"r": 1}, "z": {"s": 2}}
    out = merge(a, b)
    assert out == {"x": {"p": 1, "q": [3]}, "y": {"r": 1}, "z": {"s": 2}, "w": [1]}
    out["w"].append(9)
    out["x"]["q"].append(9)
    out["y"]["r"] = 9
    assert a == {"x": {"p": 1, "q": [1, 2]}, "y": None, "z": 3, "w": [1]}
    assert b == {"x": {"q": [3]}, "y": {"r": 1}, "z": {"s": 2}}


OVERRIDES = {
    "number": (["train.batch=8"], {"train": {"batch": 8, "lr": 1.0}}),
    "last_wins": (["train.batch=8", "train.batch=9"], {"train": {"batch": 9, "lr": 1.0}}),
    "list": (["train.milestones=[1, 2]"], {"train": {"lr": 1.0, "milestones": [1, 2]}}),
    "text_with_equals_sign": (["name=a=b"], {"train": {"lr": 1.0}, "name": "a=b"}),
    "null": (["train.clip="], {"train": {"lr": 1.0, "clip": None}}),
    "optional_section": (["camera.fov_deg=20"], {"train": {"lr": 1.0}, "camera": {"fov_deg": 20}}),
    "section_is_merged": (["train={batch: 8}"], {"train": {"lr": 1.0, "batch": 8}}),
    "spaces": ([" train.batch = 8"], {"train": {"lr": 1.0, "batch": 8}}),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_overrides(case: str) -> None:
    overrides, wanted = OVERRIDES[case]
    data = {"train": {"lr": 1.0}}
    assert apply_overrides(data, overrides, Run) == wanted
    assert data == {"train": {"lr": 1.0}}


OVERRIDES_REFUSED = {
    "no_equals_sign": ("train.batch", "--set: wanted key.name=value, got 'train.batch'"),
    "empty_name": ("train..batch=3", "--set: wanted key.name=value"),
    "unknown": ("train.bacth=3", "train.bacth: unknown key; known here: batch, .*did you mean batch?"),
    "unknown_section": ("trian.batch=3", "trian: unknown key; .*did you mean train?"),
    "below_a_value": (
        "train.batch.size=3",
        "train.batch.size: wanted the name of a field, but train.batch is a single",
    ),
    "syntax": ("train.milestones=[1", "--set train.milestones, line 1: wanted valid YAML, got: "),
    "duplicate": ("train={batch: 1, batch: 2}", "--set train, line 1: wanted each key once, got batch twice"),
}


@pytest.mark.parametrize("case", OVERRIDES_REFUSED)
def test_overrides_refused(case: str) -> None:
    override, message = OVERRIDES_REFUSED[case]
    with pytest.raises(UserError, match="^" + message):
        apply_overrides({}, [override], Run)


def test_preset_inherits_deeply(tmp_path: Path) -> None:
    write(
        tmp_path,
        root="description: all of it\nname: root\ntrain: {batch: 2, lr: 1e-8, tags: [a]}\n",
        middle="base: root\ntrain: {batch: 3, clip: 1.5}\n",
        leaf="description: the last\nbase: middle\nname: leaf\ntrain:\n  tags: [b]\n",
    )
    wanted = Run("leaf", Train(batch=3, lr=1e-8, clip=1.5, tags=["b"]))
    assert load_preset(Run, "leaf", tmp_path) == wanted
    assert list_presets(tmp_path) == {"leaf": "the last", "middle": "", "root": "all of it"}


def test_file_outside_the_folder_takes_a_preset_as_base(tmp_path: Path) -> None:
    presets = tmp_path / "presets"
    presets.mkdir()
    write(presets, root="name: root\ntrain: {batch: 2}\n")
    write(tmp_path, root="base: root\ntrain: {lr: 1}\n", empty="")
    assert load_file(tmp_path / "root.yaml", presets) == {"name": "root", "train": {"batch": 2, "lr": 1}}
    assert load_file(tmp_path / "empty.yaml", presets) == {}


PRESETS_REFUSED = {
    "unknown": ({"tiny": "name: a"}, "tinny", "^preset: wanted one of tiny, got 'tinny'; did you mean tiny?"),
    "outside": ({"tiny": "name: a"}, "../presets/tiny", "^preset: wanted one of tiny, got "),
    "unknown_base": ({"a": "base: zzz"}, "a", r"a\.yaml: base: wanted one of a, got 'zzz'$"),
    "base_no_text": ({"a": "base: 3"}, "a", r"a\.yaml: base: wanted string, got 3$"),
    "description_no_text": ({"a": "description: [1]"}, "a", r"a\.yaml: description: wanted string, got \[1\]$"),
    "itself": ({"a": "base: a"}, "a", "do not refer back to themselves, got a -> a$"),
    "cycle": ({"a": "base: b", "b": "base: c", "c": "base: b"}, "a", r"c\.yaml: base: .*, got a -> b -> c -> b$"),
    "wrong_key": ({"a": "name: x\ntrain: {lr: no}"}, "a", "^preset a: train.lr: wanted float, got False$"),
}


@pytest.mark.parametrize("case", PRESETS_REFUSED)
def test_presets_refused(case: str, tmp_path: Path) -> None:
    files, name, message = PRESETS_REFUSED[case]
    with pytest.raises(UserError, match=message):
        load_preset(Run, name, write(tmp_path, **files))


def test_presets_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: wanted a folder of presets, got no such folder"):
        list_presets(tmp_path / "none")


YAML_REFUSED = {
    "syntax": ("a: 1\nb: [1, 2\nc: 3\n", r"a\.yaml, line 3: wanted valid YAML, got: "),
    "tab": ("a:\n\tb: 1\n", r"a\.yaml, line 2: wanted valid YAML, got: "),
    "control_character": ("a: \x01\n", r"a\.yaml: wanted valid YAML, got: .*"),
    "duplicate": ("a: 1\nb: 2\na: 3\n", r"a\.yaml, line 3: wanted each key once, got a twice$"),
    "duplicate_nested_quoted": ('x:\n  - a: 1\n    "a": 2\n', r"a\.yaml, line 3: wanted each key once, got a twice$"),
    "python_object": (
        "a: !!python/object/apply:os.system [echo]\n",
        r"a\.yaml, line 1: wanted valid YAML, got: could not",
    ),
    "alias": ("a: &x [1]\nb: *x\n", r"a\.yaml, line 1: YAML aliases \(\*name\) are not supported"),
    "circle": ("a: &x [*x]\n", r"a\.yaml, line 1: YAML aliases"),
    "two_documents": ("a: 1\n---\nb: 2\n", r"a\.yaml, line 2: wanted valid YAML, got: but found another document"),
    "list": ("- a\n", r"a\.yaml: wanted a mapping at the top level, got \['a'\]"),
    "impossible_date": ("a: 2024-99-99\n", r"a\.yaml: wanted valid YAML, got a value that cannot be read: month"),
    "impossible_bool": ("a: !!bool perhaps\n", r"a\.yaml: wanted valid YAML, got a value that cannot be read"),
    "list_as_key": ("? [a]\n: 1\n", r"a\.yaml, line 1: wanted valid YAML, got: found unhashable key"),
    "too_deep": ("a: " + "[" * 5000, r"a\.yaml: wanted a few levels of nesting, got too many"),
}


@pytest.mark.parametrize("case", YAML_REFUSED)
def test_yaml_refused(case: str, tmp_path: Path) -> None:
    text, message = YAML_REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(write(tmp_path, a=text) / "a.yaml")
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.yaml: wanted a readable YAML file, got: No such file or directory"):
        read_yaml(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: wanted UTF-8 text, got byte 0xe9 at 6"):
        read_yaml(tmp_path / "latin.yaml")


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "train.rate", "lr")
    monkeypatch.setitem(RENAMED, "title", "name")


def test_former_keys_of_files_are_read(renamed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A former key counts where its file stands: above the base's present key, below a file on top."""
    write(tmp_path, root="title: x\ntrain: {lr: 1, batch: 2}\n", middle="base: root\ntrain: {rate: 2}\n")
    write(tmp_path, top="base: middle\ntrain: {lr: 3}\n")
    assert load_preset(Run, "middle", tmp_path) == Run("x", Train(batch=2, lr=2.0))
    err = capsys.readouterr().err.splitlines()
    assert err == [f"{tmp_path / 'middle.yaml'}: train.rate is now called train.lr",
                   f"{tmp_path / 'root.yaml'}: title is now called name"]  # fmt: skip
    assert load_preset(Run, "top", tmp_path).train.lr == 3.0


UNCHANGED: list[dict[str, Any]] = [
    {},
    {"train": 3},
    {"train": None},
    {"train": {"lr": 1}},
    {"train": {"rate": 1, "lr": 2}},
]


@pytest.mark.parametrize("data", UNCHANGED)
def test_nothing_else_is_renamed(renamed: None, data: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert with_present_names(data, "here") == data
    assert capsys.readouterr().err == ""


def test_a_former_key_elsewhere_is_refused_with_its_present_name(renamed: None) -> None:
    with pytest.raises(UserError, match=r"^train\.rate: unknown key; known here: batch, lr, .*; did you mean lr\?$"):
        apply_overrides({}, ["train.rate=1"], Run)
    with pytest.raises(UserError, match=r"^train\.rate: unknown key; .*; did you mean lr\?$"):
        from_dict(Run, {"name": "x", "train": {"rate": 1, "lr": 2}}, where="")
