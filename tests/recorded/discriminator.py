"""The recorded discriminator and its cases."""

import json
from functools import cache

from stylenerf.models.discriminator import Discriminator, DiscriminatorOptions
from stylenerf.models.growth import growth_at
from stylenerf.models.official import discriminator_from_official
from tests.conftest import Fixture, load_fixture

FIXTURE = "disc_tiny.npz"

# The public code counts fromRGB twice below the full resolution. It fades only where it is handed a tuple, and even
# then not at a weight of exactly 0.
CASES = {
    "a1_64": False,
    "am1_64": False,
    "a0_64": False,
    "a0_16": False,
    "a075_64_tuple": True,
    "a075_64_int": False,
    "a075_64_nostatus": False,
    "a025_32_tuple": True,
    "a025_64_tuple": True,
    "a025_32_int": False,
    "a05_64_tuple": False,
}
TAPPED = {"a1_64": (64, 32, 16, 8), "a025_32_int": (32, 16, 8), "a075_64_tuple": (64, 32, 16, 8)}


@cache
def reference() -> tuple[Fixture, Discriminator]:
    f = load_fixture(FIXTURE)
    return f, discriminator_from_official(json.loads(f.text("meta/config_json")), f.state("sd/"))


def options_of(f: Fixture, case: str) -> DiscriminatorOptions:
    alpha, status = float(f[f"{case}/alpha"]), json.loads(f.text(f"{case}/status"))
    growth = growth_at(1.0 if alpha == -1 else alpha, 16, 16, 64)
    # what the public code was told agrees with where growth stands: nothing, a resolution, (levels, level, before, now)
    assert status in (None, growth.resolution, [2, growth.level, growth.previous, growth.resolution])
    return DiscriminatorOptions(growth=growth, fade=CASES[case], entry_rgb_twice=True)
