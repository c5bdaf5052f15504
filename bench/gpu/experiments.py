"""Experiments that decide how the kernels are tuned, each in a process of its own.

``python -m bench.gpu.experiments NAME --lines FILE``; ``--help`` lists the names. Times are those of the device alone
(``bench.gpu.timing``); inputs lie in the L2 cache where they fit, as they do in a network.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from bench.bench_evaluate_field import GRID
from bench.bench_evaluate_field import make as make_points
from bench.gate import Args, cotangents, differentiable, leaves
from bench.gpu.lines import emit, read
from bench.gpu.timing import device_us
from bench.ray_cases import RayCase, make, render
from stylenerf.kernels import evaluate_density

Tile = tuple[int, int, int]  # rows, warps, stages
CUDA = torch.device("cuda")
# Zero spills on sm_90 for all of them when compiled ahead of time, but for 256 rows in 4 warps, which is left out. The
# first of each is what ships there.
TILES: dict[str, list[Tile]] = {
    "rays": [(128, 4, 2), (128, 4, 1), (128, 4, 3), (128, 8, 2), (128, 8, 3), (64, 4, 2), (64, 4, 3), (64, 8, 2),
             (256, 8, 2), (256, 8, 3)],
    "hierarchical": [(128, 8, 2), (128, 8, 1), (128, 8, 3), (64, 4, 2), (64, 4, 3), (64, 8, 2), (32, 4, 2)],
    "field": [(128, 4, 2), (128, 4, 1), (128, 4, 3), (128, 8, 2), (64, 4, 2), (64, 4, 3), (256, 8, 2), (256, 8, 3)],
}  # fmt: skip
HOOKS = {"rays": ("single_pass", "ray_tile"), "hierarchical": ("hierarchical", "hierarchical_tile"),
         "field": ("field_triton", "field_tile")}  # fmt: skip
SWEPT = {"rays": RayCase(16, samples=28), "hierarchical": RayCase(16, fine=14)}
TRAINING = RayCase(4, rays=1280, fine=14, sample_rays=256, noise=True)
COMPILERS = 6


@contextmanager
def tile_of(kind: str, tile: Tile | None) -> Iterator[None]:
    """Kernels of a kind use this tile; None leaves them theirs. Production code is asked as always, and answers so."""
    if tile is None:
        yield
        return
    from stylenerf.kernels.rays.field_triton import RowTile

    module, function = HOOKS[kind]
    with patch(f"stylenerf.kernels.rays.{module}.{function}", lambda *args, **kwargs: RowTile(*tile)):
        yield


def _launch(kind: str, tile: Tile | None) -> tuple[Any, int]:
    """The one launch of a forward, with its tensors, not made yet; and images per launch."""
    from stylenerf.kernels.base.launch import record_launches

    major, minor = torch.cuda.get_device_capability()
    with tile_of(kind, tile), torch.no_grad(), record_launches(10 * major + minor) as launches:
        if kind == "field":
            points, field = make_points(CUDA, 0, count=GRID)
            evaluate_density(points, field, precision="fp16", impl="triton")
            images = 1
        else:
            case = SWEPT[kind]
            render(make(CUDA, 0, case=case), impl="triton", case=case)
            images = case.batch
    if len(launches) != 1:
        raise RuntimeError(f"{kind}: wanted one launch, got {[entry.kernel.__name__ for entry in launches]}")
    return launches[0], images


def _run(launch: Any) -> Any:
    return launch.kernel[launch.grid](**launch.args, num_warps=launch.num_warps, num_stages=launch.num_stages)


def _result(launch: Any) -> Tensor:
    """What the launch wrote that matters most."""
    out = launch.args["hidden_ptr"]
    found: Tensor = launch.args["density_ptr"] if out is None else out
    return found.float()


def _compile(path: Path, kind: str, tile: Tile) -> None:
    try:
        _run(_launch(kind, tile)[0])
        torch.cuda.synchronize()
        emit(path, compiled=kind, tile=tile)
    except Exception as error:
        emit(path, kind=kind, tile=tile, error=_said(error))


def compile_tiles(path: Path) -> None:
    """Compile every tile, several at a time: the sweep then finds them in Triton's cache."""
    wanted = [(path, kind, tile) for kind, tiles in TILES.items() for tile in tiles]
    with multiprocessing.get_context("spawn").Pool(COMPILERS) as pool:
        pool.starmap(_compile, wanted, chunksize=1)


def sweep_tiles(path: Path, compiled: Path | None = None) -> None:
    """Time per image by tile, for the ray, the hierarchical and the field kernel; every result against the first's."""
    known = None if compiled is None else {(f["compiled"], tuple(f["tile"])) for f in read(compiled) if "compiled" in f}
    for kind, tiles in TILES.items():
        first = None
        for tile in tiles:
            if known is not None and (kind, tile) not in known:
                emit(path, kind=kind, tile=tile, error="did not compile in time")
                continue
            try:
                launch, images = _launch(kind, tile)
                built = _run(launch)
                torch.cuda.synchronize()
                result = _result(launch)
                first = result.clone() if first is None else first
                us, how = device_us(partial(_run, launch))
            except Exception as error:
                emit(path, kind=kind, tile=tile, error=_said(error))
                continue
            emit(
                path,
                kind=kind,
                tile=tile,
                us_per_image=us / images,
                images=images,
                timed=how,
                registers=getattr(built, "n_regs", None),
                spills=getattr(built, "n_spills", None),
                shared=getattr(getattr(built, "metadata", None), "shared", None),
                difference=((result - first).norm() / first.norm()).item(),
            )


def sin_cos_errors(path: Path) -> None:
    """Largest error of the fast sine and cosine: on [-1, 1], and for every octave of points up to 1.2."""
    from bench.gpu.probes import sin_cos_error

    emit(path, octave=None, error=sin_cos_error(torch.linspace(-1, 1, 2**22, device=CUDA)))
    points = 2.4 * torch.rand(2**22, generator=torch.Generator(CUDA).manual_seed(0), device=CUDA) - 1.2
    for octave in range(10):
        emit(path, octave=octave, error=sin_cos_error(points * 2.0**octave))


def fused_or_two_passes(path: Path) -> None:
    """The hierarchical kernel against a pass, a sort and a composite, whole calls on the device."""
    for batch in (1, 4, 16):
        case = RayCase(batch, fine=14)
        args = make(CUDA, 0, case=case)
        times = {}
        for name, fits in (("fused", True), ("two passes", False)):
            with torch.no_grad(), patch("stylenerf.kernels.rays.hierarchical.fits", lambda *a, fits=fits: fits):
                times[name], how = device_us(partial(render, args, impl="triton", case=case))
        emit(path, batch=batch, us_per_image={name: us / batch for name, us in times.items()}, timed=how)


def trunk_backward(path: Path) -> None:
    """Gradients of the trunk from kept activations: our kernels, the same layer by layer, torch.bmm."""
    from stylenerf.kernels.base.linear import launch_dgrad, launch_wgrad
    from stylenerf.kernels.rays.field_backward import HeadGradients, launch_trunk_backward
    from stylenerf.kernels.rays.field_triton import Operand, Samples, launch_field, pack

    case = TRAINING
    origins, directions, fractions, field, _ = make(CUDA, 0, case=case)
    with torch.no_grad():
        operand = Operand.of(pack(field, 3), field.negative_slope, "fp16")
        depths = fractions.repeat_interleave(2, dim=-1).contiguous()  # as many samples as both passes have
        B, R, S = depths.shape
        samples = Samples(None, origins, directions, depths)
        every = torch.empty(operand.layers, B, R * S, operand.width, dtype=torch.float16, device=CUDA)
        launch_field(samples, operand, hidden=every)
        image = R - case.sample_rays
        grads = HeadGradients(
            hidden=torch.randn(B, image, operand.width, device=CUDA),
            weights=torch.rand(B, R, S, device=CUDA),
            density=torch.randn(B, R, S, device=CUDA),
            sample_hidden=torch.randn(B, case.sample_rays, S, operand.width, device=CUDA),
        )
        grad_z = torch.randn_like(every[0])

        def by_layers() -> None:
            flow = grad_z
            for layer in range(operand.layers - 1, 0, -1):
                launch_wgrad(flow, every[layer - 1], precision="fp16")
                out = torch.empty_like(flow)
                weight, below = operand.rest[:, layer - 1], every[layer - 1]
                launch_dgrad(out, flow, weight, below, slope=operand.slope, precision="fp16")
                flow = out

        def by_torch() -> None:
            flow = grad_z
            for layer in range(operand.layers - 1, 0, -1):
                below = every[layer - 1]
                torch.bmm(flow.transpose(1, 2), below)
                flow.sum(1)
                flow = torch.bmm(flow, operand.rest[:, layer - 1]) * torch.where(below > 0, 1.0, operand.slope).half()

        forms: dict[str, Callable[[], object]] = {
            "one kernel per layer, with head and first layer": partial(
                launch_trunk_backward, samples, every, operand, grads, need_points=False
            ),
            "two products per layer": by_layers,
            "torch.bmm, two per layer": by_torch,
        }
        for name, run in forms.items():
            us, how = device_us(run, calls=3, rounds=9)
            emit(path, form=name, us_per_image=us / B, timed=how)


def profile(path: Path) -> None:
    """Where the device's time goes, kernel by kernel, in a few whole calls."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    for name, run in _profiled().items():
        try:
            for _ in range(3):
                run()
            torch.cuda.synchronize()
            with profiled(activities=[ProfilerActivity.CUDA]) as found:
                for _ in range(5):
                    run()
                torch.cuda.synchronize()
            kernels = _kernels(found.events(), 5)
            total = sum(us for _, _, us in kernels)
            emit(path, call=name, device_us=total, kernels=sum(n for _, n, _ in kernels), largest=kernels[:14])
        except Exception as error:
            emit(path, call=name, error=_said(error))


def _kernels(events: Any, calls: int) -> list[tuple[str, float, float]]:
    """(kernel, launches per call, microseconds per call), the longest first."""
    found: dict[str, list[float]] = {}
    for event in events:
        if str(getattr(event, "device_type", "")).endswith("CUDA"):
            found.setdefault(event.name, []).append(event.time_range.elapsed_us())
    rows = [(name[:90], len(times) / calls, sum(times) / calls) for name, times in found.items()]
    return sorted(rows, key=lambda row: -row[2])


def _profiled() -> dict[str, Callable[[], object]]:
    def forward(case: RayCase, args: Args) -> None:
        with torch.no_grad():
            render(args, impl="triton", case=case)

    def both(case: RayCase, args: Args) -> None:
        lit = differentiable(render(args, impl="triton", case=case))
        torch.autograd.grad(lit, leaves(args), [torch.ones_like(o) for o in lit])

    runs: dict[str, Callable[[], object]] = {}
    for name, case in {"forward, batch 1": RayCase(1, fine=14), "forward, batch 16": RayCase(16, fine=14)}.items():
        runs[name] = partial(forward, case, make(CUDA, 0, case=case))
    runs["training forward and backward, batch 4"] = partial(both, TRAINING, make(CUDA, 0, case=TRAINING))
    try:
        from bench import bench_generator, bench_train_step

        runs["generator 256 px, fp16"] = bench_generator.prepare(256, "fp16")
        runs["generator 1024 px, fp16"] = bench_generator.prepare(1024, "fp16")
        runs["quickstart step, G main"] = bench_train_step.prepare("quickstart 64 px, batch 8", "G main")
        runs["FFHQ 512 px step, G main"] = bench_train_step.prepare("FFHQ 512 px, batch 8", "G main")
    except Exception as error:  # the ray pass is worth its profile without them
        print(f"models: {_said(error)}", file=sys.stderr)
    return runs


def odd_shapes(path: Path) -> None:
    """Forwards and backwards that leave tiles half empty: what compute-sanitizer watches. Values are not looked at."""
    cases = [
        RayCase(1, rays=5, samples=5, fine=3, sample_rays=1, noise=True, width=32, depth=2, octaves=3),
        RayCase(2, rays=9, samples=14, fine=14, sample_rays=2, width=128),
        RayCase(1, rays=7, samples=28, width=128),
        RayCase(2, rays=33, samples=4, points=True, width=64, depth=4, dims=4),
        RayCase(1, rays=3, samples=20, fine=17, width=128),
        RayCase(1, rays=5, samples=5, width=256, depth=3),
    ]
    for case in cases:
        args = make(CUDA, 0, case=case)
        lit = differentiable(render(args, impl="triton", case=case))
        torch.autograd.grad(lit, leaves(args), cotangents(lit))
        torch.cuda.synchronize()
        emit(path, case=str(case), ran=True)


EXPERIMENTS: dict[str, Callable[[Path], None]] = {
    "compile": compile_tiles,
    "tiles": sweep_tiles,
    "sincos": sin_cos_errors,
    "passes": fused_or_two_passes,
    "backward": trunk_backward,
    "profile": profile,
    "odd": odd_shapes,
}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:400]


def main(argv: Sequence[str] | None = None) -> int:
    about = "\n".join(f"  {name:10s} {(run.__doc__ or '').splitlines()[0]}" for name, run in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.experiments",
        description=__doc__,
        epilog=f"experiments:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--lines", type=Path, required=True, help="where results go, one JSON object per line")
    parser.add_argument("--compiled", type=Path, help="of 'tiles': lines of 'compile'; try only what compiled")
    options = parser.parse_args(argv)
    if options.name == "tiles":
        sweep_tiles(options.lines, options.compiled)
    else:
        EXPERIMENTS[options.name](options.lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
