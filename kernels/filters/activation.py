"""Device functions of the activations of ``bias_act`` and of their derivatives of any order, in float32."""

from functools import cache

import triton
import triton.language as tl

from ..base.operands import expm1, softplus

SELU_SCALE = tl.constexpr(1.0507009873554805)
SELU_ALPHA = tl.constexpr(1.6732632423543772)


@triton.jit
def _sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def _tanh(v):
    """tanh(v), with a small relative error also near zero, where 1 - exp(-2 v) cancels."""
    e = tl.exp(-2.0 * tl.abs(v))
    far = (1.0 - e) / (1.0 + e)
    u = v * v
    series = 1.0 + u * (-1 / 3 + u * (2 / 15 + u * (-17 / 315 + u * (62 / 2835 - 1382 / 155925 * u))))
    return tl.where(tl.abs(v) < 0.25, v * series, tl.where(v < 0, -far, far))


@triton.jit
def activate(v, alpha, ACT: tl.constexpr):
    if ACT == "relu":
        v = tl.where(v < 0, 0.0, v)  # propagates NaN, as torch does
    elif ACT == "lrelu":
        v = tl.where(v < 0, alpha * v, v)
    elif ACT == "tanh":
        v = _tanh(v)
    elif ACT == "sigmoid":
        v = _sigmoid(v)
    elif ACT == "elu":
        v = tl.where(v > 0, v, expm1(v))
    elif ACT == "selu":
        v = SELU_SCALE * tl.where(v > 0, v, SELU_ALPHA * expm1(v))
    elif ACT == "softplus":
        v = softplus(v)
    elif ACT == "swish":
        v = v * _sigmoid(v)
    return v


@triton.jit
def _logistic(v, ORDER: tl.constexpr, SERIES: tl.constexpr):
    """Derivative ORDER of the sigmoid: s (1 - s) times the polynomial in s with the coefficients SERIES[ORDER]."""
    s = _sigmoid(v)
    if ORDER > 0:
        COUNT: tl.constexpr = len(SERIES[ORDER])
        factor = tl.zeros(v.shape, tl.float32)
        for i in tl.static_range(COUNT):
            factor = factor * s + SERIES[ORDER][COUNT - 1 - i]
        s = s * _sigmoid(-v) * factor  # not 1 - s, which cancels
    return s


@triton.jit
def derivative(v, alpha, ACT: tl.constexpr, ORDER: tl.constexpr, SERIES: tl.constexpr):
    """act^(ORDER)(v), ORDER >= 1; at a kink the left derivative."""
    LINE: tl.constexpr = 1.0 if ORDER == 1 else 0.0  # on linear parts
    if ACT == "linear":
        d = tl.full(v.shape, LINE, tl.float32)
    elif ACT == "relu":
        d = tl.where(v > 0, LINE, 0.0)
    elif ACT == "lrelu":
        d = tl.where(v > 0, LINE, LINE * alpha)
    elif ACT == "tanh":  # tanh v = 2 sigmoid(2 v) - 1
        d = 2.0 ** (ORDER + 1) * _logistic(2.0 * v, ORDER, SERIES)
    elif ACT == "sigmoid":
        d = _logistic(v, ORDER, SERIES)
    elif ACT == "elu":
        d = tl.where(v > 0, LINE, tl.exp(v))
    elif ACT == "selu":
        d = SELU_SCALE * tl.where(v > 0, LINE, SELU_ALPHA * tl.exp(v))
    elif ACT == "softplus":
        d = _logistic(v, ORDER - 1, SERIES)
    else:
        tl.static_assert(ACT == "swish")
        d = v * _logistic(v, ORDER, SERIES) + ORDER * _logistic(v, ORDER - 1, SERIES)
    return d


@cache
def series_of_sigmoid(order: int) -> tuple[tuple[float, ...], ...]:
    """Coefficients of q_0 .. q_order with sigmoid^(n) = s (1 - s) q_n(s): q_(n+1) = (1 - 2 s) q_n + s (1 - s) q_n'."""
    series: list[tuple[float, ...]] = [(), (1.0,)]  # q_0 is no polynomial
    while len(series) <= order:
        q = (0.0, *series[-1], 0.0)
        series.append(tuple((k + 1) * (q[k + 1] - q[k]) for k in range(len(q) - 1)))
    return tuple(series)
