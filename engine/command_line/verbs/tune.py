"""``stylenerf tune``: what this GPU runs fastest for a configuration."""

import argparse
from typing import TYPE_CHECKING

from ...errors import UserError

if TYPE_CHECKING:
    from ...machine.tuning import Choice

HELP = """Time what this GPU can choose between for a configuration, and remember what is fastest.

    stylenerf tune --preset ffhq256
    stylenerf tune --preset ffhq256 --set train.micro_batch=16 --data photos/
    stylenerf tune --config mine.yaml --device cuda:1

One training step of every phase and level of growth is made with networks for it, and each different call of an op is
timed with the arguments that it got: its kernel and plain torch, one launch and several, four warps and eight, where
there is a choice. The fastest is taken whose numbers are the same; the calls that cost most come first, and after 60
seconds the rest keeps its defaults. Training does the same by itself, once for a GPU, driver, versions, kernels and
configuration. Choices lie in the user's cache (~/.cache/stylenerf/machines.json), in the run (choices.json) and in its
checkpoints, so that a resumed run rounds as before. `train.py --no-tune` takes the defaults.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", metavar="NAME", help="a named configuration; train.py --list-presets shows them")
    parser.add_argument("--config", metavar="FILE", help="a YAML file instead of a preset")
    parser.add_argument("--data", metavar="PATH", help="folder or zip of images (default: the configuration's)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change one key; repeatable")
    parser.add_argument("--device", help="cuda, cuda:1 ...")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Test the ops, time, remember, show."""
    from ...device import pick_device
    from ...machine.facts import facts
    from ...machine.health import before_training
    from ...machine.prepare import remember_ways, time_ways
    from ...training.config import load_config
    from ...training.trainer import open_training_data, with_data_path

    cfg = with_data_path(load_config(args.preset, args.config, args.set), args.data)
    device = pick_device(args.device)
    if device.type == "cpu":
        raise UserError("--device: wanted a GPU, since on a CPU an op has no other form than plain torch, got cpu")
    data = open_training_data(cfg, print)
    before_training(device, print)
    decided = time_ways(cfg, data, device, progress=not args.no_progress)
    remember_ways(facts(device).identity, cfg, decided)
    _print(decided)
    return 0


def _print(decided: "list[Choice]") -> None:
    print(f"{'offer':44s} {'takes':9s} microseconds of each way")
    for c in sorted(decided, key=lambda c: -c.seconds[c.default]):
        (name, dtype, *shape), right = c.key, {way: s for way, s in c.seconds.items() if s < float("inf")}
        times = [f"{way} {s * 1e6:.0f}" if way in right else f"{way} is wrong" for way, s in c.seconds.items()]
        print(f"{f'{name} {dtype} ' + 'x'.join(map(str, shape)):44s} {c.way!s:9s} {', '.join(times)}")
    print(f"tuning:      {sum(c.way != c.default for c in decided)} of {len(decided)} choices differ from the defaults")
