"""What ``stylenerf`` can do besides training: one module per verb with HELP, ``add_arguments`` and ``run``."""

from types import ModuleType

from engine.verbs import convert, edit, interpolate, mesh, mix, project, render, view, zoom

VERBS: dict[str, ModuleType] = {
    "render": render,
    "mix": mix,
    "interpolate": interpolate,
    "zoom": zoom,
    "project": project,
    "edit": edit,
    "mesh": mesh,
    "convert": convert,
    "view": view,
}
