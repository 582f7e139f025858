"""Which code this is: the package's version, and hashes of its sources."""

from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path

__version__ = "0.1.0"

_PACKAGE = Path(__file__).parent
#: Wings whose code decides the numbers: a change in one is another code version (tests hold them to be all that
#: `pipeline` imports).
RESULT_WINGS = ("formats", "angles", "frames", "detect", "locate", "fit", "pipeline")


def sources_of(*wings: str) -> list[Path]:
    """All modules of these wings and of the ground floor, sorted; the package's face has names alone."""
    ground = [path for path in _PACKAGE.glob("*.py") if not path.name.startswith("__")]
    return sorted([*ground, *(path for wing in wings for path in (_PACKAGE / wing).rglob("*.py"))])


@cache
def sources_hash(*wings: str) -> str:
    """A hash of all modules of these wings and of the ground floor, 16 hexadecimal digits."""
    content = sha256()
    for path in sources_of(*wings):
        content.update(f"{path.relative_to(_PACKAGE)}\n".encode() + path.read_bytes() + b"\n")
    return content.hexdigest()[:16]


def code_version() -> dict[str, str]:
    """The package's version and a hash of the sources that decide the numbers."""
    return {"version": __version__, "sources": sources_hash(*RESULT_WINGS)}


def versions() -> dict[str, str]:
    """Versions of the package and of those that its numbers come from."""
    names = ("numpy", "scipy", "numba", "torch", "findpeaks", "zarr", "xarray", "dask", "distributed")
    return {"braggflow": __version__, **{name: metadata.version(name) for name in names}}
