"""A field whose density is known in closed form."""

import math

from torch import Tensor

from stylenerf.engine.model_io import Model
from stylenerf.models.field import ModulatedLayer

EDGE, STEEPNESS = 2.88, 3000.0  # of the known density; its surface is nearly a ball of radius 0.157


def known_density(points: Tensor) -> Tensor:
    """Light lost per world unit: 3000 (cos pi x + cos pi y + cos pi z - 2.88)."""
    return STEEPNESS * ((math.pi * points).cos().sum(-1) - EDGE)


def give_known_density(model: Model) -> Model:
    """Set the field's weights to :func:`known_density`; seven of eight channels stay random, for the colours."""
    field = model.generator.synthesis.volume.foreground
    first, second = field.layers
    assert isinstance(first, ModulatedLayer) and isinstance(second, ModulatedLayer)
    for layer in (first, second, field.density):
        layer.affine.weight.zero_()  # no style: a factor of 1
    first.weight[0] = 0
    first.weight[0, 3:6] = 1  # the cosines of the first octave; the row becomes one of length 1
    second.weight[0] = 0
    second.weight[1:, 0] = 0  # and apart from the colours
    field.feature.weight[:, 0] = 0
    second.weight[0, 0] = 1
    first.bias[0] = second.bias[0] = 10  # never on the flat side of the activation
    # h = sqrt2 (sqrt2 (S / sqrt3 + 10) + 10) = 2 S / sqrt3 + 20 + 10 sqrt2, S the sum of cosines
    slope = STEEPNESS / model.config.field.density_scale
    field.density.weight.zero_()
    field.density.weight[0, 0] = slope * math.sqrt(3) / 2 * math.sqrt(8)  # not demodulated: over the root of 8 inputs
    field.density.bias[0] = -slope * (EDGE + math.sqrt(3) / 2 * (20 + 10 * math.sqrt(2)))
    return model
