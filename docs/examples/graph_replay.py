"""CUDA graph replay: record the launches of a generator once, then replay them with other latents and cameras.

At small batches launching takes longer than the kernels. Random numbers are inputs; shapes stay as recorded.
`python docs/examples/graph_replay.py` records on a CUDA device; where there is none it makes the calls alone.
"""

import time

import torch
from torch import Tensor

from stylenerf import Camera, CameraPrior, Generator, GeneratorConfig, RenderOptions
from stylenerf.engine.training.graphs import Captured


def frames_per_second(render: object, inputs: list[tuple[Tensor, ...]]) -> float:
    start = time.perf_counter()
    for some in inputs:
        render(*some)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(inputs) / (time.perf_counter() - start)


def main(resolution: int = 256, frames: int = 24) -> bool:
    """Returns whether a graph was recorded; raises AssertionError if it does not draw what the calls draw."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = Generator(GeneratorConfig(resolution=resolution)).eval().to(device)
    options = RenderOptions(alpha=1.0)  # reading the buffer would make the host wait, which a graph cannot record

    @torch.no_grad()
    def render(z: Tensor, z_bg: Tensor, cam2world: Tensor, tan_half_fov: Tensor) -> Tensor:
        return generator(z, Camera(cam2world, tan_half_fov), z_bg=z_bg, options=options).image

    inputs = []
    for frame in range(frames):
        camera = CameraPrior().at(frame / frames, 0.5).to(device)
        latents = (torch.randn(1, n, device=device) for n in (generator.cfg.z_dim, generator.cfg.background.z_dim))
        inputs.append((*latents, camera.cam2world, camera.tan_half_fov))
    print(f"{frames_per_second(render, inputs):.1f} images a second by calls on {device}")
    if device == "cpu":
        print("no graph: wanted a CUDA device, this machine has none")
        return False
    with torch.no_grad():
        replay = Captured(render, *inputs[0])
        for some in inputs[1:3]:
            assert torch.equal(replay(*some), render(*some))  # the outputs are the same tensors at every replay
        print(f"{frames_per_second(replay, inputs):.1f} images a second by replaying one graph")
    return True


if __name__ == "__main__":
    main()
