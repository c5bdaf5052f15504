"""Random numbers as a function of the position in training: a resumed run draws the same as an uninterrupted one."""

import hashlib

import torch


def generator_for(*place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by its purpose, e.g. (seed, rank, images shown, "generator step", round)."""
    digest = hashlib.blake2b("/".join(str(p) for p in place).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def host_generator(rng: torch.Generator) -> torch.Generator:
    """A CPU's generator with the seed of ``rng``, for what the host decides without a wait; on a CPU ``rng`` itself."""
    return rng if rng.device.type == "cpu" else torch.Generator().manual_seed(rng.initial_seed())
