"""Replace the ops of an imported StyleGAN-family package by ours, and put them back."""

import gc
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any, NamedTuple

from . import stylegan
from .nerf import eg3d
from .stylegan.modulated_conv2d import modulated_conv2d, modulated_conv2d_stylegan3

Candidates = tuple[Callable[..., Any], ...]
OPS = ("bias_act", "conv2d_gradfix", "conv2d_resample", "filtered_lrelu", "fma", "grid_sample_gradfix", "upfirdn2d")
# by name, in any module of the package; of several, the one whose parameters have the names
FUNCTIONS: dict[str, Candidates] = {
    "modulated_conv2d": (modulated_conv2d, modulated_conv2d_stylegan3),
    "project_onto_planes": (eg3d.project_onto_planes,),
    "sample_from_planes": (eg3d.sample_from_planes,),
}
METHODS: dict[tuple[str, str], Callable[..., Any]] = {
    ("MipRayMarcher2", "run_forward"): eg3d.run_forward_method,
    ("ImportanceRenderer", "sample_importance"): eg3d.sample_importance_method,
    ("ImportanceRenderer", "sample_pdf"): eg3d.sample_pdf_method,
}


class _Swap(NamedTuple):
    """An attribute of a module or a class, and its two values."""

    owner: Any
    name: str
    old: Any
    new: Any


@dataclass
class Patch:
    """What :func:`patch` did; printed, it says so. A context manager that undoes it at the end."""

    swapped: list[str] = field(default_factory=list)  # names that now hold our ops
    left: list[str] = field(default_factory=list)  # what still holds theirs, and why
    _swaps: list[_Swap] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Put back what is still ours, also where it was imported by name meanwhile."""
        for swap in reversed(self._swaps):
            if vars(swap.owner).get(swap.name) is swap.new:
                setattr(swap.owner, swap.name, swap.old)
        originals = {id(swap.new): swap.old for swap in self._swaps}
        for module, name, value in _module_attributes(originals):
            setattr(module, name, originals[id(value)])
        self._swaps.clear()

    def __enter__(self) -> "Patch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} swapped:", *(f"  {name}" for name in self.swapped)]
        if self.left:
            lines += [f"{len(self.left)} left:", *(f"  {name}" for name in self.left)]
        return "\n".join(lines)


def patch(*packages: str) -> Patch:
    """Swap the ops of packages by name: ``patch("torch_utils", "training")``.

    In each package: the functions of its modules ``ops.bias_act``, ``ops.upfirdn2d`` and so on, which are imported if
    they are there; in its modules imported so far, ``modulated_conv2d`` of StyleGAN2 or StyleGAN3 and EG3D's ray
    marcher, plane sampling and importance sampling. Then, in every module of the process, the names under which those
    functions were imported. A function with parameters that ours lacks is left.

    Returns: what was swapped and what was left, such as a function that an object holds. ``undo()`` puts everything
        back, as does the end of a ``with``.
    Raises: ModuleNotFoundError if there is no such package; ValueError if nothing in them is known.
    """
    done = Patch()
    try:
        for package in packages:
            for owner, name, candidates in _known(package):
                _swap(done, package, owner, name, candidates)
        replacements = {id(swap.old): swap.new for swap in done._swaps}
        for module, name, value in _module_attributes(replacements):
            _set(done, module, name, replacements[id(value)], f"{module.__name__}.{name}, imported by name")
        _report_holders(done)
    except BaseException:
        done.undo()
        raise
    if not done.swapped and not done.left:
        raise ValueError(f"packages must hold ops of StyleGAN2, StyleGAN3 or EG3D by name, got {list(packages)}")
    return done


def _known(package: str) -> Iterator[tuple[Any, str, Candidates]]:
    """(module or class, attribute, our functions) for whatever has a name that we know."""
    if _exists(import_module(package), "ops"):
        ops = import_module(f"{package}.ops")
        for op in (op for op in OPS if _exists(ops, op)):
            module, ours = import_module(f"{package}.ops.{op}"), getattr(stylegan, op)
            yield from (
                (module, name, (getattr(ours, name),)) for name in ours.__all__ if callable(getattr(ours, name))
            )
    for path, module in sorted(sys.modules.items()):
        if isinstance(module, ModuleType) and _within(path, package):
            yield from ((module, *entry) for entry in FUNCTIONS.items())
            for (owner, name), ours in METHODS.items():
                if isinstance(cls := vars(module).get(owner), type):
                    yield cls, name, (ours,)


def _exists(parent: ModuleType, child: str) -> bool:
    return hasattr(parent, "__path__") and find_spec(f"{parent.__name__}.{child}") is not None


def _within(path: str, package: str) -> bool:
    return path == package or path.startswith(f"{package}.")


def _swap(done: Patch, package: str, owner: Any, name: str, candidates: Candidates) -> None:
    """Swap a function of ``package`` for the first candidate that has all its parameters, else note that it is left."""
    old = vars(owner).get(name)
    if not isinstance(old, FunctionType) or any(swap.new is old for swap in done._swaps):
        return
    label = f"{owner.__module__}.{owner.__qualname__}.{name}" if isinstance(owner, type) else f"{owner.__name__}.{name}"
    inner = _innermost(old)
    if _within(inner.__module__, __package__):
        done.left.append(f"{label}: is ours already")
        return
    if not _within(inner.__module__, package):  # from elsewhere, and not to be changed for everybody
        return
    wanted = set(signature(inner).parameters)
    for ours in candidates:
        if wanted <= set(signature(ours).parameters):
            _set(done, owner, name, _copy(ours), label)
            return
    done.left.append(f"{label}: its parameters are {', '.join(signature(inner).parameters)}")


def _set(done: Patch, owner: Any, name: str, new: Any, label: str) -> None:
    done._swaps.append(_Swap(owner, name, vars(owner)[name], new))
    setattr(owner, name, new)
    done.swapped.append(label)


def _copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own, so that what holds it is known to have it from this patch."""

    @wraps(function)
    def ours(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return ours


def _innermost(function: FunctionType) -> FunctionType:
    """The function inside decorators, also inside those that give theirs its name but not ``__wrapped__``."""
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    wrapped = [getattr(function, "__wrapped__", None), *held]
    for inner in wrapped:
        if isinstance(inner, FunctionType) and inner is not function and inner.__name__ == function.__name__:
            return _innermost(inner)
    return function


def _module_attributes(values: Container[int]) -> list[tuple[ModuleType, str, Any]]:
    """Attributes of all modules whose values have these identities."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    return [(m, name, value) for m in modules for name, value in list(vars(m).items()) if id(value) in values]


def _report_holders(done: Patch) -> None:
    """Note what else holds a replaced function: a default argument, a partial, a dict, an object."""
    originals = {id(swap.old): f"{swap.owner.__name__}.{swap.name}" for swap in reversed(done._swaps)}
    known = {id(swap) for swap in done._swaps}
    for holder in gc.get_referrers(*(swap.old for swap in done._swaps)):
        if id(holder) not in known and not isinstance(holder, FrameType):
            names = {originals[id(held)] for held in gc.get_referents(holder) if id(held) in originals}
            done.left += [f"{name}: a {type(holder).__name__} holds theirs" for name in sorted(names)]
