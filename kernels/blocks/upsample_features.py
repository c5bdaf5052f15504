"""Enlarge a feature map twofold, with the learned adapters of StyleNeRF.

With up = nearest neighbour, corner(x) = half the sum of the two pixels beside each new pixel's corner (zero outside the
image), L = leaky ReLU (slope 0.2) times sqrt 2, and blur = FIR filter at the size of its input:

    nn_cat        blur( up(x) + W1 L(W0 [up(x), corner(x)] + b0) + b1 )
    pixelshuffle  blur( up(x) + shuffle(W1 L(W0 x + b0) + b1) )
    bilinear_ada  u + W1 L(W0 u + b0) + b1 with u = bilinear(x)
    nearest       blur( up(x) )
    bilinear, bicubic   corners of the two images aligned; never blurred

up, corner and blur act per channel, so they commute with W0 and W1: the commuted form runs W0 at low resolution, blurs
C/4 channels instead of C, and replaces blur(up(.)) by a polyphase filter on the small image.
"""

from typing import Literal, NamedTuple

from torch import Tensor

from ..base.autocast import under_autocast
from ..base.checks import FLOATS, check_choice, check_dtypes, check_shapes
from ..base.dispatch import Impl, resolve
from ..filters.upfirdn2d import check_filter
from .upsample_features_ref import upsample_features_commuted, upsample_features_plain

UPSAMPLE_MODES = ("nn_cat", "pixelshuffle", "bilinear", "bilinear_ada", "bicubic", "nearest")
UPSAMPLE_FORMS = ("commuted", "plain")


class Adapter(NamedTuple):
    """Two 1x1 layers; weights include the equalised scale 1/sqrt(fan-in).

    nn_cat [C/4, 2C] and [C, C/4]; pixelshuffle [C/4, C] and [4C, C/4]; bilinear_ada [C, C] twice. The hidden width is
    free: that of ``weight0``.
    """

    weight0: Tensor
    bias0: Tensor
    weight1: Tensor
    bias1: Tensor


@under_autocast("beside")
def upsample_features(
    x: Tensor,
    *,
    mode: str,
    adapter: Adapter | None = None,
    filter: Tensor | None = None,
    form: Literal["commuted", "plain"] = "commuted",
    impl: Impl = "auto",
) -> Tensor:
    """Double height and width of x.

    Args:
        x:       [N, C, H, W] float64|float32|float16|bfloat16.
        mode:    one of nn_cat, pixelshuffle, bilinear, bilinear_ada, bicubic, nearest.
        adapter: weights of nn_cat, pixelshuffle and bilinear_ada; cast to the dtype of x.
        filter:  taps of the blur, [kh, kw] or [k] as ``upfirdn2d`` takes them; None = no blur. Ignored by the
                 bilinear and bicubic modes.
        form:    "plain" is the definition above, "commuted" the cheaper order of the same operations.
    Returns: [N, C, 2H, 2W], dtype of x; channels_last where x is, and in the commuted form with an adapter.
    Differentiable: any order in x and the adapter ("ref").
    Raises: ValueError on mode, form, shapes, a missing or superfluous adapter; TypeError on dtype.
    Source: StyleNeRF (arXiv 2110.08985), section 3.3; nn_cat is what its released weights expect.
    """
    C = check_shapes(x=(x, "N C H W"))["C"]
    check_dtypes(FLOATS, x=x)
    if 0 in x.shape[1:]:
        raise ValueError(f"x must have at least one pixel, got {list(x.shape)}")
    check_choice("mode", mode, UPSAMPLE_MODES)
    check_choice("form", form, UPSAMPLE_FORMS)
    check_adapter(mode, adapter, C)
    check_filter(filter)
    resolve("upsample_features", impl, x)
    if form == "plain":
        return upsample_features_plain(x, mode, adapter, filter)
    return upsample_features_commuted(x, mode, adapter, filter)


def check_adapter(mode: str, adapter: Adapter | None, C: int) -> None:
    """Refuse an adapter that does not fit ``mode`` with C channels."""
    shapes = {
        "nn_cat": (f"D {2 * C}", f"{C} D", f"{C}"),
        "pixelshuffle": (f"D {C}", f"{4 * C} D", f"{4 * C}"),
        "bilinear_ada": (f"D {C}", f"{C} D", f"{C}"),
    }
    if mode not in shapes:
        if adapter is not None:
            raise ValueError(f"adapter must be None for mode '{mode}', got {type(adapter).__name__}")
        return
    if adapter is None:
        raise ValueError(f"adapter must be given for mode '{mode}', got None")
    weight0, weight1, bias1 = shapes[mode]
    check_shapes(
        weight0=(adapter.weight0, weight0),
        bias0=(adapter.bias0, "D"),
        weight1=(adapter.weight1, weight1),
        bias1=(adapter.bias1, bias1),
    )
    check_dtypes(FLOATS, weight0=adapter.weight0, bias0=adapter.bias0, weight1=adapter.weight1, bias1=adapter.bias1)
