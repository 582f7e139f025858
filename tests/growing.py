"""Writers of series that grow: each a process of its own, told frame by frame what to write."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Frames in a data file of an EIGER series.
PER_FILE = 4


class Writer:
    """A process that writes frames of `images` (n, y, x) to a series at `path`, whose kind is one of `KINDS`."""

    def __init__(self, kind: str, path: Path, images: NDArray[np.generic]) -> None:
        self.path = path
        source = path.with_name(f"{path.stem}.source.npy")
        np.save(source, images)
        command = [sys.executable, str(Path(__file__)), kind, str(path), str(source)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def put(self, position: int, image: int | None = None) -> None:
        """Write an image as the frame at a position; by default the one of that number. Returns when it is written."""
        self._tell(f"{position} {position if image is None else image}")

    def close(self) -> None:
        """End in order."""
        if self._process.poll() is None:
            self._tell("close")
        self._end()

    def kill(self) -> None:
        """End as a crash would."""
        self._process.kill()
        self._end()

    def _end(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _tell(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "done\n"


def _swmr(path: Path, images: NDArray[np.generic], told: Callable[[], list[int] | None], *, chunk: int = 1) -> None:
    import h5py

    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(
            "entry/data/data",
            shape=(0, *images.shape[1:]),
            maxshape=(None, *images.shape[1:]),
            chunks=(chunk, *images.shape[1:]),
            dtype=images.dtype,
            compression="gzip",
        )
        file.swmr_mode = True
        while (order := told()) is not None:
            position, image = order
            if position >= len(data):
                data.resize(position + 1, axis=0)
            data[position] = images[image]
            data.flush()


def _swmr_in_chunks(path: Path, images: NDArray[np.generic], told: Callable[[], list[int] | None]) -> None:
    _swmr(path, images, told, chunk=3)


def _eiger(path: Path, images: NDArray[np.generic], told: Callable[[], list[int] | None]) -> None:
    """The master file first; a data file when all of its frames were told, written under another name and renamed."""
    import h5py

    names = [f"{path.name.removesuffix('_master.h5')}_data_{k + 1:06d}.h5" for k in range(len(images) // PER_FILE)]
    with h5py.File(path, "w") as file:
        for k, name in enumerate(names):
            file[f"entry/data/data_{k + 1:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        file["entry/instrument/detector/detectorSpecific/nimages"] = len(images)
        file["entry/instrument/detector/detectorSpecific/ntrigger"] = 1
    frames: dict[int, int] = {}
    while (order := told()) is not None:
        frames |= {order[0]: order[1]}
        k = order[0] // PER_FILE
        members = range(k * PER_FILE, (k + 1) * PER_FILE)
        if all(member in frames for member in members):
            unfinished = path.with_name(names[k] + ".part")
            with h5py.File(unfinished, "w") as file:
                file.create_dataset(
                    "entry/data/data", data=images[[frames[m] for m in members]], chunks=(1, *images[0].shape)
                )
            unfinished.replace(path.with_name(names[k]))


def _zarr(path: Path, images: NDArray[np.generic], told: Callable[[], list[int] | None]) -> None:
    import zarr

    group = zarr.open_group(path, mode="w")
    array = group.create_array(
        "frames",
        shape=images.shape,
        chunks=(1, *images.shape[1:]),
        dtype=images.dtype,
        dimension_names=("frame", "y", "x"),
    )
    while (order := told()) is not None:
        array[order[0]] = images[order[1]]


KINDS = {"swmr": _swmr, "swmr_in_chunks": _swmr_in_chunks, "eiger": _eiger, "zarr": _zarr}
#: What each kind is called.
NAMES = {"swmr": "scan.h5", "swmr_in_chunks": "scan.h5", "eiger": "scan_master.h5", "zarr": "scan.zarr"}


def _main(kind: str, path: str, source: str) -> None:
    def told() -> list[int] | None:
        print("done", flush=True)
        words = sys.stdin.readline().split()
        return None if words in ([], ["close"]) else [int(word) for word in words]

    KINDS[kind](Path(path), np.load(source), told)
    print("done", flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
