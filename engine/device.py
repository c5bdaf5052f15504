"""The device that a command works on."""

import torch

from engine.errors import UserError


def pick_device(name: str | None) -> torch.device:
    """The device called ``name``, or CUDA if there is one, or the CPU; float32 products on it are exact, not TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has tensors, but no numbers in them
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: wanted a device of this machine, got {name!r}: {reason}") from None
    return device
