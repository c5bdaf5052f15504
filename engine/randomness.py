"""Random numbers as a function of where training stands: a resumed run draws what an uninterrupted one draws."""

import hashlib

import torch


def generator_for(*place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by what it is for, e.g. (seed, rank, images shown, "generator step", round)."""
    digest = hashlib.blake2b("/".join(str(p) for p in place).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
