"""Lay ``kernels/`` out as a kernel of the Hugging Face Hub: ``python hub/make.py``, or ``make hub``.

    dist/hub/stylenerf-kernels/
        build.toml                                          what kernel-builder reads
        torch-ext/stylenerf_kernels/                        the sources, where kernel-builder looks for them
        build/torch-universal/stylenerf_kernels/            the same: nothing is compiled before a kernel is called
        build/torch-universal/metadata.json                 what the hub's client reads
        README.md, LICENSE

Nothing is uploaded. The module's name, and with it the namespace of its torch ops, ends in a hash of the sources:
versions live beside each other, and beside an installed ``stylenerf``, in one process.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "stylenerf-kernels"
PACKAGE = NAME.replace("-", "_")
VARIANT = "torch-universal"
LICENSE = "MIT"


def build_toml(version: int) -> str:
    general = {"name": f'"{NAME}"', "version": version, "license": f'"{LICENSE}"', "backends": '["cuda"]'}
    lines = [f"{key} = {value}" for key, value in general.items()]
    return "\n".join(["[general]", *lines, "", "[torch-noarch]", ""])


def metadata(version: int, digest: str) -> dict[str, object]:
    """The client names the module after ``id``. It wants a backend; on others the ops run in plain torch."""
    return {
        "name": NAME,
        "id": f"_{PACKAGE}_{digest[:12]}",
        "version": version,
        "license": LICENSE,
        "python-depends": [],
        "backend": {"type": "cuda"},
    }


def digest(folder: Path) -> str:
    """SHA-256 of the paths and contents of a folder's files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            total.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()


def make(out: Path, version: int = 1, kernels: Path = ROOT / "kernels") -> Path:
    """Write the layout to ``out``, whole or not at all; returns the folder of the variant.

    Raises: ValueError if ``out`` is something else than an earlier layout.
    """
    if out.exists() and not (out / "build.toml").is_file():
        raise ValueError(f"--out: wanted a new folder, or one that this command has made, got {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".hub-") as scratch:
        new = Path(scratch) / "new"
        source, variant = new / "torch-ext" / PACKAGE, new / "build" / VARIANT
        shutil.copytree(kernels, source, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        shutil.copytree(source, variant / PACKAGE)
        (new / "build.toml").write_text(build_toml(version))
        (variant / "metadata.json").write_text(json.dumps(metadata(version, digest(source)), indent=2) + "\n")
        shutil.copyfile(Path(__file__).with_name("card.md"), new / "README.md")
        shutil.copyfile(ROOT / "LICENSE", new / "LICENSE")
        if out.exists():
            out.rename(Path(scratch) / "old")
        new.rename(out)
    return out / "build" / VARIANT


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist", "hub", NAME), help="folder (default: %(default)s)")
    parser.add_argument("--version", type=int, default=1, help="of the kernel on the hub (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.version < 1:
        parser.error(f"--version: wanted at least 1, got {args.version}")
    try:
        variant = make(args.out, args.version)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.out}: {json.loads((variant / 'metadata.json').read_text())['id']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
