"""How long the device works on something, launches left out."""

import statistics
from collections.abc import Callable

import torch

CALLS, ROUNDS = 20, 15


def device_us(call: Callable[[], object], calls: int = CALLS, rounds: int = ROUNDS) -> tuple[float, str]:
    """(microseconds per call, "graph" or "stream"): the median over rounds of ``calls`` calls back to back.

    As a CUDA graph, so that Python's launches are not in it; where a capture fails, on the stream as they come.
    """
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    run, how = _many(call, calls), "stream"
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        run, how = graph.replay, "graph"
    except Exception:  # any reason not to be captured will do; the figure says which way it was taken
        torch.cuda.synchronize()
    run()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times), how


def _many(call: Callable[[], object], calls: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(calls):
            call()

    return run
