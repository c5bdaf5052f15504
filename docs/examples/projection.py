"""Projection in code: a picture back to a latent and a camera of a model, then seen from elsewhere.

python docs/examples/projection.py                          a picture that the model in the box made itself
python docs/examples/projection.py runs/mine me.jpg         a photograph, in a model of yours
"""

import sys

import torch

from stylenerf import Model, load_model, load_photos, subjects_from_seeds
from stylenerf.engine.applications.project.projection import Projector
from stylenerf.engine.applications.project.projection_options import ProjectionOptions
from stylenerf.engine.pictures import to_uint8


def own_picture(model: Model, seed: int = 7) -> torch.Tensor:
    """[1, 3, R, R] in -1..1: what the model makes of a seed, from a side, rounded to bytes as a file would be."""
    subject, camera = subjects_from_seeds(model, [seed]), model.prior.at(0.8, 0.4)
    with torch.no_grad():
        image = model.generator.synthesis(subject.ws, camera, z_bg=subject.z_bg).image
    return to_uint8(image).float() / 127.5 - 1


def main(name: str = "demo", *photos: str, steps: int = 60, subjects: int = 32) -> float:
    """Returns the error of the picture found over that of the model's average."""
    model = load_model(name)
    targets = load_photos(photos, model.config.resolution) if photos else own_picture(model)
    options = ProjectionOptions(steps=steps, subjects=subjects, starts=2, noise=0.0 if steps < 50 else 0.05)
    projector = Projector(model, targets, options)
    projector.search()
    while projector.step < projector.total:
        stage, losses = projector.advance()
        if projector.step % 20 == 0 or projector.step == projector.total:
            print(f"{stage} {projector.step}/{projector.total}: loss {losses.mean():.4f}")
    found, camera = projector.result()
    with torch.no_grad():
        images = model.generator.synthesis(found.ws, camera, z_bg=found.z_bg).image
        turned = model.generator.synthesis(found.ws, model.prior.at(0.2, 0.5), z_bg=found.z_bg).image
    average = projector.chart.images(projector.average)
    errors = [(image - targets).square().mean().item() for image in (average, images)]
    print(f"mean square error {errors[1]:.4f}, of the average {errors[0]:.4f}; turned: {list(turned.shape)}")
    return errors[1] / errors[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
