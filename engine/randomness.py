"""Random numbers as a function of the position in training: a resumed run draws the same as an uninterrupted one."""

import hashlib

import torch


def generator_for(*place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by its purpose, e.g. (seed, rank, images shown, "generator step", round)."""
    digest = hashlib.blake2b("/".join(str(p) for p in place).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
