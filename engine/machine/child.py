"""``python -m stylenerf.engine.machine.child DEVICE OPS FAILED``: the self-test in a process that may die of it.

Prints an empty object when it begins, then a verdict a line; see :mod:`.health`.
"""

import json
import sys

import torch

from ...kernels.base.choices import choose
from ..device import pick_device
from .selftest import examine


def main(device: str, ops: str, failed: str) -> None:
    where = pick_device(device)
    torch.ones(1, device=where).item()
    print("{}", flush=True)
    choose({(op,): "ref" for op in filter(None, failed.split(","))})
    for verdict in examine(where, ops.split(",")):
        print(json.dumps(verdict._asdict()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
