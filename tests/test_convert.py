"""``stylenerf convert``: public snapshots to models of ours, with the images of the reference; refusals in one line."""

import copy
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylenerf.engine.applications.convert.generator import Converted, convert_network
from stylenerf.engine.applications.convert.snapshot import read_snapshot
from stylenerf.engine.command_line.main import main
from stylenerf.engine.errors import UserError
from stylenerf.engine.model_io import load_model
from stylenerf.models.camera import Camera
from stylenerf.models.generator import Generator, RenderOptions
from tests import snapshots as s
from tests.closeness import assert_image_close
from tests.conftest import ROOT, load_fixture
from tests.inputs import seeded
from tests.public_forms import (
    BASE,
    GENERATORS,
    changed,
    make,
    paths,
    public_kwargs,
    public_state,
    recorded_kwargs,
    small,
    without,
)
from tests.runs import digests
from tests.sweeps import slow

FORMS = {"plain": dict, "omegaconf": s.omega, "easydict": s.easy, "launched": s.launched, "leaves": s.launched_leaves}


def snapshot(
    file: Path, kwargs: dict[str, Any], state: dict[str, Tensor], *, form: Any = dict, args: tuple[Any, ...] = ()
) -> Path:
    """A snapshot with the network as G_ema, and with its numbers doubled as G."""
    with s.public_modules():
        networks = [
            s.generator(kwargs, values, form=form, args=args)
            for values in (state, {n: value if n.endswith("alpha") else 2 * value for n, value in state.items()})
        ]
        return s.write_snapshot(file, s.contents(networks[1], G_ema=networks[0]))


def converted(file: Path, kwargs: dict[str, Any], state: dict[str, Tensor]) -> Converted:
    return convert_network(read_snapshot(snapshot(file, kwargs, state)))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of somebody who downloaded a few files."""
    monkeypatch.chdir(tmp_path)
    snapshot(tmp_path / "good.pkl", *small())
    (tmp_path / "evil.pkl").write_bytes(s.stream(s.call("posix", "system", s.raw("touch canary"))))
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "good.pkl").read_bytes()[:5000])
    (tmp_path / "pointer.pkl").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("keep me")
    (tmp_path / "empty").mkdir()
    yield tmp_path
    assert not (tmp_path / "canary").exists() and not list(tmp_path.glob(".writing*"))


# the images of the reference


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("run", ["a1_c", "a025_c"])
def test_reference_images(form: str, run: str, tmp_path: Path) -> None:
    f = load_fixture("gen_ffhq_tiny.npz")
    file = snapshot(tmp_path / "x.pkl", json.loads(f.text("meta/config_json")), f.state("sd/"), form=FORMS[form])
    assert main(["convert", str(file), "--out", str(tmp_path / "model")]) == 0
    model = load_model(tmp_path / "model")
    u, v, r = f[f"camera_mode/{run[-1]}"].tolist()
    pose = model.prior.at(u, v, r)
    camera = Camera(pose.cam2world.expand(2, -1, -1), pose.tan_half_fov.expand(2, -1))
    ws = model.generator.mapping(f["z"])
    options = RenderOptions(alpha=float(f[f"{run}/alpha"]))
    out = model.generator.synthesis(ws, camera, z_bg=f["z_shape_bg"], options=options)
    assert_image_close("image", out.image, f[f"{run}/img"])


@pytest.mark.parametrize("case", GENERATORS)
def test_every_supported_form(case: str, tmp_path: Path) -> None:
    g = make(case)
    got = converted(tmp_path / "x.pkl", public_kwargs(g.cfg), public_state(g)).generator
    assert got.cfg == g.cfg
    own, other = g.state_dict(), got.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


# what arguments leave out

LEFT_OUT: dict[str, tuple[str, ...]] = {
    "resolution": ("img_resolution",),
    "widths": ("z_dim", "w_dim", "c_dim", "mapping_kwargs"),
    "volume": ("synthesis_kwargs.resolution_vol", "synthesis_kwargs.rgb_out_dim"),
    "kernel": ("synthesis_kwargs.kernel_size", "synthesis_kwargs.use_noise", "synthesis_kwargs.magnitude_ema_beta"),
    "mode": ("synthesis_kwargs.upsample_mode",),
    "fields": ("synthesis_kwargs.foreground_kwargs", "synthesis_kwargs.background_kwargs"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
@pytest.mark.parametrize("model", ["released", slow("pixelshuffle"), "conditional", slow("3x3 with noise")])
def test_sizes_left_out_are_read_off_the_tensors(case: str, model: str, tmp_path: Path) -> None:
    g = make(model)
    kwargs = public_kwargs(g.cfg)
    found = converted(tmp_path / "x.pkl", without(kwargs, *LEFT_OUT[case]), public_state(g))
    assert found.generator.cfg == g.cfg
    names = {name.split(".")[-1] for name in LEFT_OUT[case]}
    assert found.completed.keys() <= names | {"num_layers"} and (found.completed or case in ("fields", "mode"))


def launched(
    file: Path, kwargs: dict[str, Any], state: dict[str, Tensor], lost: tuple[str, ...] = (), protocol: int = 4
) -> Converted:
    """A snapshot of the launcher, whose interpolations under the names ``lost`` lead nowhere."""
    with s.public_modules():
        g = s.generator(kwargs, state, form=s.launched)
        _lose(g._init_kwargs, lost)
        return convert_network(read_snapshot(s.write_snapshot(file, {"G_ema": g}, protocol)))


def _lose(kwargs: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        here: Any = kwargs
        *path, last = name.split(".")
        for part in path:
            here = here[part] if isinstance(here, dict) else here._content[part]
        (here if isinstance(here, dict) else here._content)[last] = s.omega("${gone.away}", None)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("case", ["released", "conditional", "3x3 with noise", "no background", "skips"])
def test_what_the_launcher_writes(case: str, protocol: int, tmp_path: Path) -> None:
    g = make(case)
    got = launched(tmp_path / "x.pkl", recorded_kwargs(g.cfg), public_state(g), protocol=protocol)
    assert got.generator.cfg == g.cfg and not got.completed
    own, other = g.state_dict(), got.generator.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)


SYN = "synthesis_kwargs."
LOST_AND_FOUND = [
    "z_dim", "w_dim", "c_dim", "img_resolution", "img_channels", "mapping_kwargs.num_layers",
    *(SYN + name for name in (
        "num_fp16_res", "module_name", "resolution_vol", "rgb_out_dim", "z_dim_bg", "kernel_size", "use_noise",
        "magnitude_ema_beta", "renderer_kwargs.no_background", "foreground_kwargs.hidden_size",
        "foreground_kwargs.n_blocks", "foreground_kwargs.n_freq_posenc", "background_kwargs.n_freq_posenc",
        "foreground_kwargs.magnitude_ema_beta", "foreground_kwargs.z_dim", "background_kwargs.w_dim",
        "upsampler_kwargs.out_res",
    )),
]  # fmt: skip


@pytest.mark.parametrize("name", LOST_AND_FOUND)
@pytest.mark.parametrize("case", ["released", slow("3x3 with noise")])
def test_unresolved_interpolations_are_read_off_the_tensors(case: str, name: str, tmp_path: Path) -> None:
    g = make(case)
    assert launched(tmp_path / "x.pkl", recorded_kwargs(g.cfg), public_state(g), (name,)).generator.cfg == g.cfg


@pytest.mark.parametrize("case", ["released", "3x3 with noise"])
def test_unresolved_widths_are_read_off_the_tensors(case: str, tmp_path: Path) -> None:
    g = make(case)
    lost = tuple(f"{SYN}upsampler_kwargs.channel_{part}" for part in ("base", "max"))
    got = launched(tmp_path / "x.pkl", recorded_kwargs(g.cfg), public_state(g), lost)
    assert got.completed.keys() == {"channel_base", "channel_max"}
    own, other = g.state_dict(), got.generator.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)


NOT_TOLD = [
    *(SYN + name for name in ("camera_kwargs.fov", "camera_kwargs.range_u", "camera_kwargs.depth_range", "conv_clamp")),
    *(SYN + name for name in ("renderer_kwargs.n_ray_samples", "foreground_kwargs.predict_rgb", "camera_kwargs")),
    *("synthesis_kwargs", "mapping_kwargs", SYN + "upsampler_kwargs.no_2d_renderer"),
]


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_neither_tells_is_refused_by_key(name: str, tmp_path: Path) -> None:
    g = make("released")
    with pytest.raises(UserError) as caught:
        launched(tmp_path / "x.pkl", recorded_kwargs(g.cfg), public_state(g), (name,))
    assert f"{name}: wanted a value, got '${{gone.away}}', which the file does not resolve" in str(caught.value)


def test_bilinear_adapters_are_told_apart(tmp_path: Path) -> None:
    g = seeded(lambda: Generator(replace(BASE, upsampler=replace(BASE.upsampler, mode="bilinear_ada"))))
    kwargs = without(public_kwargs(g.cfg), "synthesis_kwargs.upsample_mode")
    assert converted(tmp_path / "x.pkl", kwargs, public_state(g)).completed == {"upsample_mode": "bilinear_ada"}


def test_older_arguments_one_level_higher(tmp_path: Path) -> None:
    kwargs, state = small()
    wanted = converted(tmp_path / "x.pkl", kwargs, state)
    kwargs = copy.deepcopy(kwargs)
    syn = kwargs["synthesis_kwargs"]
    syn |= syn.pop("camera_kwargs") | syn.pop("renderer_kwargs")
    got = converted(tmp_path / "x.pkl", kwargs, state)
    assert (got.generator.cfg, got.prior) == (wanted.generator.cfg, wanted.prior)


def test_ranges_that_only_the_camera_tells(tmp_path: Path) -> None:
    kwargs, state = small()
    with s.public_modules():
        g = s.generator(without(kwargs, "synthesis_kwargs.camera_kwargs.range_u"), state)
        g._modules["synthesis"].C.state["range_u"] = s.omega([-0.25, 0.75])  # type: ignore[union-attr]
        s.write_snapshot(tmp_path / "x.pkl", {"G_ema": g})
    found = convert_network(read_snapshot(tmp_path / "x.pkl"))
    assert found.prior.yaw == (-0.25, 0.75) and found.completed == {"range_u": [-0.25, 0.75]}


def test_positional_arguments(tmp_path: Path) -> None:
    kwargs, state = small()
    args = tuple(kwargs[name] for name in ("z_dim", "c_dim"))
    file = snapshot(tmp_path / "x.pkl", without(kwargs, "z_dim", "c_dim"), state, args=args)
    assert convert_network(read_snapshot(file)).generator.cfg == BASE
    for wrong in (tuple(range(8)), (6, 0, 5)):
        with pytest.raises(UserError, match="init_args: wanted"):
            convert_network(read_snapshot(snapshot(file, kwargs, state, args=wrong)))


@pytest.mark.parametrize("alpha, shown, samples", [(-1.0, 1.0, 20), (0.25, 0.25, None), (1.0, 1.0, None)])
def test_growth_is_kept(alpha: float, shown: float, samples: int | None, desk: Path) -> None:
    kwargs, state = small()
    snapshot(desk / "x.pkl", kwargs, state | {"synthesis.alpha": torch.tensor(alpha)})
    assert main(["convert", "x.pkl", "--out", "model"]) == 0
    synthesis = load_model("model").generator.synthesis
    assert (float(synthesis.alpha), synthesis.default_samples) == (shown, samples)


# what cannot be converted


def wrong(**changes: Tensor | None) -> dict[str, Tensor]:
    state = {**small()[1], **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


NAN, FIVE = torch.tensor(float("nan")), torch.ones(5)
STATES: dict[str, tuple[dict[str, Tensor], str]] = {
    "missing": (wrong(mapping__fc0__bias=None), r"missing \['mapping.layers.0.bias'\] "),
    "unknown": (wrong(mapping__fc9__bias=FIVE), r"unknown \['mapping.fc9.bias'\]"),
    "misshapen": (wrong(mapping__fc0__bias=torch.zeros(6)), r"mapping.fc0.bias must be \[5\], got \[6\]"),
    "not a number": (wrong(mapping__fc0__bias=NAN * FIVE), "mapping.layers.0.bias: .* got 5 that are not"),
    "overflow": (wrong(mapping__w_avg=1e300 * FIVE.double()), "w_avg: wanted finite .*, got 5"),
    "growth": (wrong(synthesis__alpha=NAN), "synthesis.alpha must be -1 or between 0 and 1, got nan"),
    "growth of five": (wrong(synthesis__alpha=FIVE), r"synthesis.alpha must be one number, got a tensor of \[5\]"),
    "growth of none": (wrong(synthesis__alpha=FIVE[:0]), r"synthesis.alpha must be one number, got a tensor of \[0\]"),
    "layer without inputs": (wrong(synthesis__bg_nerf__fc_in__weight=FIVE[0]), r"fc_in.weight must be .*, got \[\]"),
    "first layer of one row": (wrong(synthesis__fg_nerf__fc_in__weight=FIVE), r"fc_in.weight must be .*, got \[5\]"),
    "block of a number": (wrong(synthesis__fg_nerf__blocks__0__weight=FIVE[0]), r"0.weight must be .*, got \[\]"),
    "features of a number": (wrong(synthesis__fg_nerf__feat_out__weight=FIVE[0]), r"out.weight must be .*, got \[\]"),
    "label without classes": (wrong(mapping__embed__weight=FIVE[0]), "unknown .*mapping.embed.weight"),
    "no field": ({"synthesis.b4.const": FIVE}, "'Generator' without synthesis.fg_nerf: no StyleNeRF generator"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_wrong_tensors_are_refused_by_name(case: str, tmp_path: Path) -> None:
    state, text = STATES[case]
    with pytest.raises(UserError, match=f"x.pkl: G_ema.*{text}"):
        converted(tmp_path / "x.pkl", small()[0], state)


ODD = [None, -1, 0, 1, 3, 2**31, 2**63, 2**100, 1e30, float("nan"), float("inf"), True, "x", "", "\x1b[2J", [], [1, 2],
       [2, 1], ["a", "b"], {}, {"a": 1}, {"\x1b[2J": 1}, 10**9, 4097, "default", "pixelshuffle"]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(paths(public_kwargs(BASE))), st.sampled_from(ODD))
def test_odd_arguments_are_refused_or_mean_something(tmp_path: Path, name: str, value: Any) -> None:
    kwargs = changed(small()[0], name, value)
    try:
        found = converted(tmp_path / "x.pkl", kwargs, small()[1])
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 600
    else:
        assert found.generator.cfg.resolution == 16


FIELD, BEHIND = "synthesis_kwargs.foreground_kwargs.", "synthesis_kwargs.background_kwargs."
BEYOND = {
    "mapping_kwargs.num_layers": 10**9,
    f"{FIELD}hidden_size": 10**7,
    f"{FIELD}n_blocks": 10**9,
    f"{FIELD}n_freq_posenc": 10**9,
    f"{BEHIND}n_blocks": 10**9,
    f"{BEHIND}hidden_size": 10**9,
    "synthesis_kwargs.rgb_out_dim": 10**12,
    "synthesis_kwargs.z_dim_bg": 10**10,
    "synthesis_kwargs.renderer_kwargs.n_ray_samples": 10**9,
    "z_dim": 2**60,
    "w_dim": 2**40,
    "c_dim": 10**12,
    "img_resolution": 2**60,
}


@pytest.mark.parametrize("name", BEYOND)
def test_arguments_beyond_the_file_take_no_memory(name: str, tmp_path: Path) -> None:
    kwargs = changed(small()[0], name, BEYOND[name])
    with pytest.raises(UserError, match=r"the configuration (has|takes) at least|wanted at most 4096 samples"):
        converted(tmp_path / "x.pkl", kwargs, small()[1])


def test_channels_beyond_the_file_take_no_memory(tmp_path: Path) -> None:
    kwargs = without(small()[0], "synthesis_kwargs.upsampler_kwargs")
    kwargs["synthesis_kwargs"] |= {"channel_base": 2**40, "channel_max": 2**50}
    with pytest.raises(UserError, match="the configuration takes at least"):
        converted(tmp_path / "x.pkl", kwargs, small()[1])


# the command

BAD = {
    "no file": ("", "the following arguments are required: FILE .*--help"),
    "no folder": ("good.pkl", "--out: wanted the folder of the converted model .*, got nothing"),
    "no such file": ("none.pkl --out new", "none.pkl: wanted a readable snapshot file, got: No such file"),
    "hostile": ("evil.pkl --out new", "evil.pkl: refused global 'posix.system'"),
    "cut": ("cut.pkl --out new", "cut.pkl: wanted a whole snapshot .* damaged: .*cut off"),
    "pointer": ("pointer.pkl --out new", "pointer.pkl: .* a Git LFS pointer, .*`git lfs pull`"),
    "folder": ("empty --out new", "empty: wanted a snapshot file, got a folder"),
    "full folder": ("good.pkl --out full", "full: wanted a new or empty folder, "),
    "file as folder": ("good.pkl --out good.pkl", "good.pkl: wanted a new or empty folder"),
    "below a file": ("good.pkl --out good.pkl/model", "good.pkl/model: cannot write here: (Not a dir|File exists)"),
    "name too long": ("good.pkl --out " + "x" * 300, "x+: cannot write here: File name too long"),
    "root": ("good.pkl --out /", "/: wanted a new or empty folder"),
    "other network": ("good.pkl --out new --which D", "argument --which: invalid choice: 'D'.*"),
    "both": ("good.pkl --inspect --out new", "--inspect: wanted without --out, .* got both"),
    "unknown option": ("good.pkl --bogus", r"unrecognized arguments: --bogus \(see stylenerf --help\)"),
    "looking at a cut file": ("--inspect cut.pkl", "cut.pkl: wanted a whole snapshot"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_harms_nothing(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, wanted = BAD[case]
    before = digests(desk)
    assert main(["convert", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.match(f"error: {wanted}", err), err
    assert digests(desk) == before and not (desk / "new").exists()


def test_a_model_is_written_once(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "good.pkl", "--out", "deep/down/model"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "16 px from a 4 px volume" in out and out.endswith("model:       deep/down/model\n")
    assert sorted(digests(desk / "deep")) == [f"down/model/{n}" for n in ("manifest.json", "meta.json", "state.pt")]
    meta = json.loads((desk / "deep/down/model/meta.json").read_text())
    assert meta["source"] == {
        "file": "good.pkl", "network": "G_ema", "completed": [], "sha256": digests(desk)["good.pkl"]
    }  # fmt: skip
    before = digests(desk)
    assert main(["convert", "good.pkl", "--out", "deep/down/model"]) == 2
    assert digests(desk) == before
    assert main(["convert", "good.pkl", "--out", "empty"]) == 0  # an empty folder is as good as none


def test_which_network(desk: Path) -> None:
    assert main(["convert", "good.pkl", "--out", "average"]) == 0
    assert main(["convert", "good.pkl", "--out", "other", "--which", "G"]) == 0
    average, other = (load_model(name).generator.mapping.layers[0].bias for name in ("average", "other"))
    assert average.abs().sum() > 0 and torch.equal(2 * average, other)


def test_looking_writes_nothing_and_tells_everything(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(desk)
    assert main(["convert", "--inspect", "good.pkl"]) == 0
    assert digests(desk) == before
    out = capsys.readouterr().out
    wanted = (
        "training_set_kwargs    dict of 3",
        f"G_ema                  Generator, {len(small()[1])} tensors",
        "augment_pipe           None",
        "torch_utils.persistence._reconstruct_persistent_obj",
        f"{len(s.SOURCE)} characters, SHA-256 {hashlib.sha256(s.SOURCE.encode()).hexdigest()}",
        "synthesis_kwargs.camera_kwargs.range_u: [-0.3, 0.3]",
        "mapping.fc0.weight",
        "nothing in the file",
        "16 px from a 4 px volume",
    )
    assert [text for text in wanted if text not in out] == []
    assert main(["convert", "--inspect", "evil.pkl"]) == 0
    assert "     1  global 'posix.system'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "last"), [("good.pkl", "nothing in the file\n\n"), ("evil.pkl", "not be converted\n")]
)
def test_looking_starts_without_torch(desk: Path, file: str, last: str) -> None:
    """Only what would become of a good file is told by building it."""
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from stylenerf.engine.command_line.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "convert", "--inspect", str(desk / file)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.endswith(last)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["convert", "--help"])
    assert ended.value.code == 0
    assert "stylenerf convert --inspect ffhq_512.pkl" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "convert" in capsys.readouterr().out


@pytest.mark.slow
def test_as_a_process(desk: Path) -> None:
    command = [sys.executable, "-m", "stylenerf", "convert", str(desk / "evil.pkl"), "--out", str(desk / "new")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"error: {desk / 'evil.pkl'}: refused global 'posix.system'\n"
