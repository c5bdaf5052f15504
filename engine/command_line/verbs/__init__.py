"""The verbs of ``stylenerf`` besides training: one module per verb with HELP, ``add_arguments`` and ``run``.

A verb's module is imported when it is asked for. Parsing its arguments must not bring torch along, which takes seconds:
at the top it imports what is light, and each function what it works with.
"""

from importlib import import_module
from types import ModuleType

VERBS = {  # name -> the first line of its HELP
    "render": "Render a model: pictures, depth, normals, along a camera path",
    "mix": "Mix styles: a table of subjects, rows with the coarse layers of one, columns with the other layers of another",  # noqa: E501
    "interpolate": "Go from subject to subject: a moving picture and a sheet",
    "zoom": "Move the camera in: a moving picture and a sheet",
    "project": "Find photographs in a model: style, background and camera of each (projection, or inversion)",
    "edit": "Edit subjects: find directions in the space of styles without labels, sweep along them, apply them",
    "mesh": "Write a subject's surface as a mesh",
    "dataset": "Make a checked set of pictures that training reads, from a folder, a zip or a video",
    "report": "See how a training run goes: one HTML page of its figures, signs, pictures and next commands",
    "plan": "Predict the memory and the work of a training step on a GPU, without a GPU",
    "evaluate": "Evaluate a model or a set of pictures: FID, KID, precision and recall, sliced Wasserstein, views that agree",  # noqa: E501
    "compare": "Compare figures of `stylenerf evaluate`, if they were made by one protocol",
    "convert": "Convert a snapshot (.pkl) of the public StyleNeRF code to a model that every other verb takes",
    "doctor": "Check this machine: versions, the device, and every op against its definition in float64",
    "tune": "Time what this GPU can choose between for a configuration, and remember what is fastest",
    "view": "Look at a model in a browser: drag to orbit, scroll to zoom, and see what each setting does at once",
}


def verb_module(name: str) -> ModuleType:
    """The module of a verb in ``VERBS``."""
    return import_module(f"stylenerf.engine.command_line.verbs.{name}")
