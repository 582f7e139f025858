"""All kernels that a search may need, compiled ahead: once for each version of the sources and each type of CPU.

Each is called once as the stages call it, in helper processes, as many as there are cores. Together they take a minute
of one core; by and by, each at its first call, they would take as long, while a frame of another type or a setting of
another kind waits.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from braggflow import compiled, patches
from braggflow.config import DetectConfig, FitConfig, LocateConfig, PatchesConfig
from braggflow.detect import SEARCHED, cut_patches, detect, on_disks, on_plateaus, searched_image
from braggflow.fit import deblend, fit_patches
from braggflow.frames import CorrectedFrame
from braggflow.locate import least_std, load_localiser, locate_patches

logger = logging.getLogger(__name__)

#: What all this takes on two cores, seconds.
_ABOUT = 65.0
_SIZE = 48


def compile_ahead() -> None:
    """Compile all kernels of detection, fits and networks, unless they are kept from before; says so meanwhile.

    For frames of every type of pixels, with and without levels, masks, bins and disks. Nothing of these is compiled at
    a later call then, in whatever process. Processes that come here at once wait for one of them.

    Examples
    --------
    >>> from braggflow.pipeline import compile_ahead
    >>> compile_ahead()
    """
    compiled.compile_once(("detect", "fit", "locate"), _in_helpers, about=_ABOUT)


def compile_part(*names: str) -> None:
    """Compile parts, of `_parts`, in this process, which says nothing of it."""
    compiled.announce(lambda _: None)
    parts = _parts()
    for name in names:
        parts[name][0]()


def _parts() -> dict[str, tuple[Callable[[], None], float]]:
    """What is compiled, with the share of the time that it takes."""
    searches = {f"search {dtype}": (partial(_search, dtype), 9.0) for dtype in SEARCHED}
    first = f"search {SEARCHED[0]}"
    return {
        **searches,
        first: (searches[first][0], 20.0),  # with what is the same for all types
        "fits": (_fit, 18.0),
        "disks": (_fit_disk, 4.0),
        "networks": (_locate, 8.0),
    }


def _in_helpers() -> bool:
    """Share the parts out among processes, the longest first; return whether all were compiled."""
    lanes: list[list[str]] = [[] for _ in range(min(len(_parts()), len(os.sched_getaffinity(0))))]
    load = [0.0] * len(lanes)
    for name, (_, share) in sorted(_parts().items(), key=lambda part: -part[1][1]):
        least = load.index(min(load))
        lanes[least].append(name)
        load[least] += share
    package = str(Path(compiled.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    helpers: list[subprocess.Popen[bytes]] = []
    code = f"import sys; from {__name__} import compile_part; compile_part(*sys.argv[1:])"
    try:
        for lane in lanes:
            command = [sys.executable, "-c", code, *lane]
            helpers.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
        for helper in helpers:
            _, said = helper.communicate()
            if helper.returncode:
                last = said.decode(errors="replace").strip().rpartition("\n")[2]
                logger.warning("kernels were not all compiled ahead (%s): they are at their first call", last)
                return False
    except OSError as error:
        logger.warning("kernels cannot be compiled ahead (%s): they are at their first call", error.strerror)
        return False
    finally:
        for helper in helpers:
            if helper.poll() is None:
                helper.terminate()
                helper.wait()
    return True


def _search(dtype: np.dtype[np.generic]) -> None:
    """Search a frame of two spots, in which a column is missing, by each rule, and cut what is found."""
    y, x = np.mgrid[:_SIZE, :_SIZE]
    spots = sum(400 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 3) for row, column in ((14, 14), (17, 22)))
    counts = np.random.default_rng(0).poisson(4 + spots).astype(dtype)
    mask = np.zeros(counts.shape, bool)
    mask[:, 40] = True
    found = detect(counts, mask, DetectConfig())
    cut_patches(CorrectedFrame(counts, mask, None), found.table, PatchesConfig(), level=found.level)
    on_disks(found, counts, mask, size=15)
    on_plateaus(found, counts, mask, saturation=300.0)
    for background in ("local", "none"):
        for false_peaks in (0.1, None):
            levels = DetectConfig(background=background, false_peaks=false_peaks, minval="5 sigma", minscore="4 sigma")
            detect(counts, mask, levels)
            searched_image(CorrectedFrame(counts, mask, None), levels)


def _fit() -> None:
    """Fit a pair of peaks without maxima of their own, and tell them apart."""
    y, x = np.mgrid[:11, :11]
    mean = 4 + sum(height * np.exp(-((y - 5) ** 2 + (x - at) ** 2) / 3) for height, at in ((900, 4.6), (300, 7.6)))
    counts = np.rint(mean)[None].astype(np.float32)
    state, alone = np.zeros(counts.shape, np.uint8), np.full((1, patches.MAX_NEIGHBOURS, 2), np.nan, np.float32)
    fits = fit_patches(counts, state, alone, FitConfig())
    deblend(counts, state, alone, FitConfig(), fits)


def _fit_disk() -> None:
    y, x = np.mgrid[:15, :15]
    counts = np.where(np.hypot(y - 7, x - 7) < 4, 400, 4)[None].astype(np.float32)
    state, alone = np.zeros(counts.shape, np.uint8), np.full((1, patches.MAX_NEIGHBOURS, 2), np.nan, np.float32)
    fit_patches(counts, state, alone, FitConfig(model="disk"))


def _locate() -> None:
    counts, state = np.ones((1, 11, 11), np.float32), np.zeros((1, 11, 11), np.uint8)
    least_std(counts, state, counts_per_photon=1.0, read_noise=0.0)
    for network in ("compact", "braggnn"):
        localiser = load_localiser(LocateConfig(network=network, device="cpu"), 11)
        locate_patches(localiser, counts, state)
