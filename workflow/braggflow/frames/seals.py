"""Checksums of Zarr stores made here: nothing that was changed, cut off or lost is read as if it were whole.

Each chunk ends with its CRC-32C (Zarr's own codec), and the attribute `checksums` of the root holds digests of what
describes the store: its attributes, and of each array `zarr.json` and, but for the frames themselves, which chunks it
has. Arrays that are added later are nobody's damage. A store without that attribute is not guarded.
"""

import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

#: The attribute of the root.
CHECKSUMS = "checksums"
#: How arrays beside the frames are compressed: as Zarr does by default, and guarded.
COMPRESSORS = (ZstdCodec(), Crc32cCodec())
#: Bytes of a checksum at the end of a chunk.
CRC_BYTES = 4
#: The array whose chunks are too many to be looked at whenever the store is opened.
_FRAMES = "frames"


def guarded_encoding(data: xr.Dataset) -> dict[str, Any]:
    """The encoding with which `Dataset.to_zarr` guards the chunks of all variables.

    `write_empty_chunks=True` belongs to it: a chunk that is not there has to be one that was lost.
    """
    return {str(name): {"compressors": COMPRESSORS} for name in data.variables}


def seal(path: Path) -> None:
    """Write down the digests of the finished store at `path`, in place of those that it has."""
    arrays = {
        folder.name: _of_array(folder)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and (folder / "zarr.json").is_file()
    }
    group = zarr.open_group(path, mode="r+")
    attributes = {name: value for name, value in group.attrs.asdict().items() if name != CHECKSUMS}
    stated: dict[str, Any] = {"attributes": _digest(attributes), "arrays": arrays}
    group.attrs[CHECKSUMS] = stated | {"digest": _digest(stated)}


def sealed(path: Path) -> str:
    """The digest of all the digests of a store, "" where it is not guarded or cannot be read."""
    root = _description(path)
    stated = root["attributes"].get(CHECKSUMS) if root is not None else None
    return "" if stated is None else _digest(stated)


def damage_of_store(path: Path, *, since: int, content: bool = True) -> Iterator[str]:
    """What does not fit the digests of the store at `path`: a file in it each time, and what is wrong with it.

    Stores have digests from `format_version` `since` on. With `content`, the chunks beside the frames are read; without
    it, only their last bytes, which tell whether they are those that were written and not whether they are whole.
    """
    root = _description(path)
    if root is None:
        yield f"zarr.json is {'damaged' if (path / 'zarr.json').exists() else 'missing'}"
        return
    attributes = dict(root["attributes"])
    stated = attributes.pop(CHECKSUMS, None)
    if stated is None:
        version = attributes.get("format_version")
        if isinstance(version, int) and version >= since:
            yield f"zarr.json has lost the attribute {CHECKSUMS}"
        return
    if not _is_seal(stated):
        yield f"zarr.json was changed (the attribute {CHECKSUMS})"
        return
    if _digest(attributes) != stated["attributes"]:
        yield "zarr.json was changed (the attributes of the store)"
    for name, digests in stated["arrays"].items():
        yield from _damage_of_array(path / name, digests, content=content)


def _damage_of_array(folder: Path, stated: Mapping[str, str], *, content: bool) -> Iterator[str]:
    name, described = folder.name, read_json(folder / "zarr.json")
    if described is None or _digest(described) != stated["description"]:
        how = "was changed" if described else "is damaged" if (folder / "zarr.json").exists() else "is missing"
        yield f"{name}/zarr.json {how}"
        return
    if "chunks" not in stated:
        return
    whole, ends = True, sha256()
    for key in chunk_keys(described):
        try:
            chunk = (folder / key).read_bytes() if content else _end(folder / key)
        except OSError as error:
            whole = False
            lost = isinstance(error, FileNotFoundError)
            yield f"{name}/{key} {'is missing' if lost else f'cannot be read ({error.strerror})'}"
            continue
        if content and is_guarded(described) and not is_whole(chunk):
            whole = False
            yield f"{name}/{key} is damaged (its checksum does not fit)"
        ends.update(chunk[-CRC_BYTES:])
    if whole and ends.hexdigest() != stated["chunks"]:
        yield f"{name}/c was changed (other chunks than were written)"


def is_whole(chunk: bytes) -> bool:
    """Whether a guarded chunk is as it was written."""
    return len(chunk) >= CRC_BYTES and checksum_fits(memoryview(chunk)[:-CRC_BYTES], chunk[-CRC_BYTES:])


def checksum_fits(body: memoryview, stated: bytes) -> bool:
    """Whether what a chunk holds has the CRC-32C that stands at its end."""
    # No copy is made of an array; views are not taken.
    found: int = google_crc32c.value(np.frombuffer(body, np.uint8))
    return found.to_bytes(CRC_BYTES, "little") == stated


def is_guarded(described: Mapping[str, Any]) -> bool:
    """Whether each file of an array's chunks ends with its checksum, by its `zarr.json`; a shard has it inside."""
    codecs = described.get("codecs") or [{}]
    return bool(codecs[-1].get("name") == "crc32c")


def chunk_keys(described: Mapping[str, Any]) -> Iterator[str]:
    """The files that an array has, relative to its folder, by its `zarr.json`."""
    sizes = described["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [range(-(-n // size)) for n, size in zip(described["shape"], sizes, strict=True)]
    return ("/".join(["c", *map(str, index)]) for index in product(*counts))


class GuardedStore(LocalStore):
    """A store whose guarded chunks are compared with their checksums as they are read, so that the file is named.

    Zarr's own codec says that a checksum does not fit, and not of what; and it reads a chunk that was lost as 0.
    """

    def __init__(self, root: Path, *, read_only: bool = True, error: type[ValueError] = ValueError) -> None:
        super().__init__(root, read_only=read_only)
        self.error = error
        described = {file.parent.name: read_json(file) for file in root.glob("*/zarr.json")}
        self.guarded = frozenset(name for name, array in described.items() if array is not None and is_guarded(array))

    async def get(
        self, key: str, prototype: "BufferPrototype | None" = None, byte_range: "ByteRequest | None" = None
    ) -> "Buffer | None":
        """As of any store."""
        return self._checked(key, await super().get(key, prototype, byte_range), byte_range)

    def get_sync(
        self, key: str, *, prototype: "BufferPrototype | None" = None, byte_range: "ByteRequest | None" = None
    ) -> "Buffer | None":
        """As of any store; Zarr 3.1.0 knows no such method."""
        return self._checked(key, super().get_sync(key, prototype=prototype, byte_range=byte_range), byte_range)

    def _checked(self, key: str, chunk: "Buffer | None", byte_range: "ByteRequest | None") -> "Buffer | None":
        name, _, rest = key.partition("/")
        if name in self.guarded and rest.startswith("c") and byte_range is None:
            if chunk is None:
                raise self.error(f"{self.root / key}: is missing")
            if not is_whole(chunk.to_bytes()):
                raise self.error(f"{self.root / key}: is damaged (its checksum does not fit)")
        return chunk


def _of_array(folder: Path) -> dict[str, str]:
    described = read_json(folder / "zarr.json")
    if described is None:
        raise ValueError(f"{folder / 'zarr.json'}: cannot be read")
    found = {"description": _digest(described)}
    if folder.name != _FRAMES:
        ends = sha256()
        for key in chunk_keys(described):
            ends.update(_end(folder / key))
        found["chunks"] = ends.hexdigest()
    return found


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - CRC_BYTES))
        return file.read()


def _description(path: Path) -> dict[str, Any] | None:
    """The root's `zarr.json` where it is one."""
    root = read_json(path / "zarr.json")
    return root if root is not None and isinstance(root.get("attributes"), dict) else None


def _is_seal(stated: Any) -> bool:
    return (
        isinstance(stated, dict)
        and {*stated} == {"attributes", "arrays", "digest"}
        and stated["digest"] == _digest({name: stated[name] for name in ("attributes", "arrays")})
        and isinstance(stated["arrays"], dict)
        and all(
            isinstance(digests, dict) and {"description"} <= {*digests} <= {"description", "chunks"}
            for digests in stated["arrays"].values()
        )
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None where that holds none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _digest(content: Any) -> str:
    """Of plain data, whatever the order of its keys and the blanks between."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
