"""What ``stylenerf`` can do besides training: one module per verb with HELP, ``add_arguments`` and ``run``."""

from types import ModuleType

from engine.verbs import convert, project, render

VERBS: dict[str, ModuleType] = {
    "render": render,
    "project": project,
    "convert": convert,
}
