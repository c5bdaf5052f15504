"""Known faults of the compilers behind the kernels, and what the project does instead.

A fault belongs to versions of Triton, or of its assembler, and to a GPU generation. ``tests/test_faults.py`` looks for
each pattern in the IR or the machine code of the kernels, so that a new kernel cannot meet one unnoticed.

Triton 3.6 is the oldest version allowed: torch 2.11, the oldest torch allowed, comes with it, and none of the faults
below needs a newer one.
"""

import re
from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """One fault: where it occurs, its pattern and symptom, and how the project keeps clear of it."""

    name: str
    compiler: str  # "triton" or "ptxas"
    first: Version  # versions known to have it
    last: Version | None  # None: none is known without it
    targets: tuple[int, ...]  # compute capabilities, 90 for sm_90
    pattern: str
    symptom: str
    instead: str
    source: str

    def affects(self, version: str, target: int) -> bool:
        """Whether ``version`` of the compiler, as "3.7.1", has the fault on compute capability ``target``."""
        numbers = parse_version(version)
        after = self.last is not None and numbers > self.last
        return target in self.targets and numbers >= self.first and not after


FAULTS = (
    Fault(
        name="turned_product",
        compiler="triton",
        first=(3, 4),
        last=None,
        targets=(90,),
        pattern="dot(trans(dot(...))): a warp-group product, its left operand another product's result, transposed",
        symptom="wrong gradients up to 3.7.0; illegal accesses with 4 warps at 3.7.1",
        instead="of every product, the transposed factor was loaded or has fewer rows than the 64 of a warp group",
        source="triton-lang/triton 10486, 11366; fla-org/flash-linear-attention 640, 984, 988",
    ),
    Fault(
        name="chained_accumulation",
        compiler="triton",
        first=(3, 6),
        last=(3, 7, 1),
        targets=(100, 103),
        pattern="two tcgen05 products that add to one accumulator in each round of a pipelined loop",
        symptom="wrong sums, the same every time",
        instead="a loop has one product per accumulator; products into the same one lie outside of loops",
        source="triton-lang/triton 10821, mended by 10858",
    ),
    Fault(
        name="pending_operand",
        compiler="triton",
        first=(3, 6),
        last=None,
        targets=(90,),
        pattern="a pipelined loop with a warp-group product whose left operand is converted in registers",
        symptom="a round overwrites the registers while the product of the round before may still read them",
        instead="such a loop has one stage (base/linear.py); the machine code is searched for others",
        source="triton-lang/triton 8970, 9433",
    ),
    Fault(
        name="overwritten_operand",
        compiler="ptxas",
        first=(12, 8),
        last=(13, 2),
        targets=(90,),
        pattern="an asynchronous warp-group product that reads its left operand from registers",
        symptom="its registers are written again before it has read them: wrong sums",
        instead="the machine code of the shipped kernels is searched for it (bench.compiler.inspect)",
        source="triton-lang/triton 11781; release notes of CUDA 13.3",
    ),
)


def parse_version(text: str) -> Version:
    """The leading numbers of a version: (3, 7, 1) of "3.7.1+git1a2b"; (0,) if there are none."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else (0,)


def known_faults(compiler: str, version: str, target: int) -> list[Fault]:
    """The faults that ``version`` of ``compiler`` ("triton" or "ptxas") has on compute capability ``target``."""
    return [fault for fault in FAULTS if fault.compiler == compiler and fault.affects(version, target)]
