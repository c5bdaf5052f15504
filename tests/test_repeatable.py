"""On a GPU: the same inputs give the same bits, and a resumed run those of a whole one. A race would move them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gate
from bench.ray_cases import RayCase, make, render
from tests.checkpoints import assert_state_equal
from tests.runs import assert_same_run, fresh, outcome, train_here

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CASES = {
    "FFHQ, batch 4": RayCase(4, fine=14),
    "28 samples, batch 4": RayCase(4, samples=28),
    "training, batch 4": RayCase(4, rays=1280, fine=14, sample_rays=256, noise=True),
    "width 256, batch 1": RayCase(1, samples=28, width=256),
}


@pytest.mark.parametrize(("run", "times"), [(gate.forward, 20), (gate.backward, 4)], ids=["forward", "backward"])
@pytest.mark.parametrize("name", CASES)
def test_a_ray_pass_is_repeatable(name: str, run: Callable[..., Any], times: int) -> None:
    case = CASES[name]
    args, call = make(torch.device("cuda"), 0, case=case), partial(render, case=case, impl="triton")
    first = [t.clone() for t in run(call, args)]
    assert all(bool(torch.isfinite(t).all()) for t in first)
    unequal = sum(not all(map(torch.equal, first, run(call, args))) for _ in range(times - 1))
    assert unequal == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh(tmp_path_factory.mktemp("whole") / "run", "--device", "cuda")


def test_a_run_is_repeatable(whole: Path, tmp_path: Path) -> None:
    assert_same_run(fresh(tmp_path / "run", "--device", "cuda"), whole)


def test_a_resumed_run_is_the_whole_one(whole: Path, tmp_path: Path) -> None:
    run = fresh(tmp_path / "run", "--device", "cuda", "--set", "train.total_kimg=0.016")
    assert train_here("--resume", run, "--device", "cuda", "--set", "train.total_kimg=0.032") == 0
    assert_state_equal(outcome(run).state["state"], outcome(whole).state["state"])
