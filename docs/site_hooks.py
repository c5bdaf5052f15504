"""Pages of the site (`make docs`) that no file of docs/ holds: README.md as its home, examples, the reference.

mkdocs calls the functions of this module, which mkdocs.yml names.
"""

import ast
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
REFERENCE = {  # page -> what it says first, modules with their prefix; their __all__ is what the page lists
    "stylenerf": ("Names of `stylenerf`, imported when first used.", {"stylenerf": "stylenerf"}),
    "kernels": ("Ops of `stylenerf.kernels`, or of a copy of its folder.", {"kernels": "stylenerf.kernels"}),
    "compat": (
        "The ops under the names of other projects; [Drop-in ops](../drop-in.md) has recipes.",
        {
            "kernels/compat": "stylenerf.kernels.compat",
            "kernels/compat/nerf": "stylenerf.kernels.compat.nerf",
            "kernels/compat/stylegan": "stylenerf.kernels.compat.stylegan",
        },
    ),
}
_SEEN = tempfile.TemporaryDirectory(
    prefix="stylenerf-docs-"
)  # the package as an installation has it, for the reference


def public_names(folder: str) -> list[str]:
    """``__all__`` of a package, read without importing it."""
    for node in ast.parse((ROOT / folder / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{folder}: wanted an __all__")


@event_priority(100)
def on_config(config: Any) -> Any:
    package = Path(_SEEN.name, "stylenerf")
    package.mkdir(exist_ok=True)
    for path in (*(ROOT / "stylenerf").glob("*.py"), *(ROOT / name for name in ("kernels", "models", "engine"))):
        if not (package / path.name).exists():
            (package / path.name).symlink_to(path)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_SEEN.name]
    return config


def on_files(files: Files, config: Any) -> Files:
    pages = {
        "index.md": (ROOT / "README.md").read_text(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        **{f"reference/{name}.md": reference(name) for name in REFERENCE},
    }
    for path in sorted((ROOT / "docs" / "examples").glob("*.py")):
        pages[f"examples/{path.stem}.md"] = f"# {path.name}\n\n```python\n{path.read_text()}```\n"
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def reference(page: str) -> str:
    """The page's Markdown: a heading for each module, and under it mkdocstrings' directive for each of its names."""
    opening, modules = REFERENCE[page]
    lines = [f"# {next(iter(modules.values()))}", "", opening]
    for folder, module in modules.items():
        if len(modules) > 1:
            lines += ["", f"## {module}"]
        for name in public_names(folder):
            lines += ["", f"::: {module}.{name}", "    options:", f"      heading_level: {2 + (len(modules) > 1)}"]
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links as they are on the site: to generated pages; those out of docs/ are names only."""
    here = ROOT / "docs" if page.file.src_uri not in ("index.md", "changelog.md") else ROOT
    folder = here / PurePosixPath(page.file.src_uri).parent

    def link(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        if target.startswith(("http:", "https:", "#")):
            return found[0]
        path, _, anchor = target.partition("#")
        uri = site_uri((folder / path).resolve())
        if uri is None:
            return text
        up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        return f"{mark}[{text}]({up}{uri}{'#' + anchor if anchor else ''})"

    return LINK.sub(link, markdown)


def site_uri(path: Path) -> str | None:
    """Where a file of the repository is on the site, or None."""
    if path in (ROOT / "README.md", ROOT / "CHANGELOG.md"):
        return {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}[path.name]
    if path == ROOT / "docs" / "examples":
        return "examples/README.md"
    if not path.is_relative_to(ROOT / "docs"):
        return None
    uri = path.relative_to(ROOT / "docs").as_posix()
    return re.sub(r"\.py$", ".md", uri) if uri.startswith("examples/") else uri


class AsWritten(griffe.Extension):
    """Docstrings are text: ``<`` outside of code is a sign of a formula, not the beginning of HTML."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            parts = re.split(r"(`+[^`]*`+)", obj.docstring.value)
            obj.docstring.value = "".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in parts)
