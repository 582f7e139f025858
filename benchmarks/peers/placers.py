"""Ways of placing peaks in patches that are cut already, on one thread: fits and networks."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_locate import published_form
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from braggflow.config import FitConfig, LocateConfig
from braggflow.fit import fit_patches
from braggflow.locate import BraggNN, load_localiser, locate_patches
from braggflow.patches import Patches, State, concatenate, select
from braggflow.pipeline import search_chunk

from .cases import Case

SIZE = 11
#: Peaks that curve_fit is given: it takes about a millisecond for each.
FEW = 200
_NODES, _WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(3))


@dataclass(frozen=True)
class Alone:
    """Patches with one whole peak and no missing pixel, which every method can be given."""

    patches: Patches
    corners: NDArray[np.int64]
    """(n, 2), position of each patch's first pixel in its frame."""
    places: NDArray[np.int64]
    """(n,), places of their frames in the case."""


Placer = Callable[[Patches], NDArray[np.float64]]


def alone(case: Case) -> Alone:
    """Of all peaks found in the case."""
    found = [search_chunk(case.opened, k, k + 1) for k in range(len(case.numbers))]
    kept = [(one.patches.state == State.OWN).all(axis=(1, 2)) for one in found]
    chosen = [select(one.patches, some) for one, some in zip(found, kept, strict=True)]
    tables = [one.table[some] for one, some in zip(found, kept, strict=True)]
    return Alone(
        concatenate(chosen),
        np.concatenate([np.column_stack([t["y_pixel"], t["x_pixel"]]) for t in tables]).astype(np.int64) - SIZE // 2,
        np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
    )


def gaussian_fit() -> Placer:
    """braggflow's: pixel-integrated elliptical Gaussian on a background, by maximum likelihood."""

    def place(patches: Patches) -> NDArray[np.float64]:
        fits = fit_patches(patches.counts, patches.state, patches.neighbours, FitConfig())
        return np.column_stack([fits["y"], fits["x"]])

    return place


def curve_fitted(*, integrated: bool) -> Placer:
    """scipy's curve_fit of the same model, or of one taken at the pixels' centres, with all else at its defaults."""
    nodes, weights = (_NODES, _WEIGHTS) if integrated else (np.zeros(1), np.ones(1))
    at = (np.arange(SIZE)[:, None] + nodes).ravel()
    share = np.outer(weights, weights)[None, :, None, :]

    def model(
        _: object, y: float, x: float, yy: float, xy: float, xx: float, amplitude: float, background: float
    ) -> NDArray[np.float64]:
        dy, dx = at[:, None] - y, at[None, :] - x
        shape = np.exp(-(xx * dy * dy - 2 * xy * dy * dx + yy * dx * dx) / (yy * xx - xy * xy) / 2)
        pixels = (shape.reshape(SIZE, len(nodes), SIZE, len(nodes)) * share).sum(axis=(1, 3))
        return (amplitude * pixels + background).ravel()

    def place(patches: Patches) -> NDArray[np.float64]:
        positions = np.full((len(patches.counts), 2), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # it steps through shapes that are no ellipse
            for k, patch in enumerate(patches.counts):
                data = patch.ravel().astype(float)
                level = float(np.median(data))
                y, x = divmod(int(data.argmax()), SIZE)
                try:
                    found, _ = curve_fit(model, None, data, p0=[y, x, 1.5, 0, 1.5, data.max() - level, level])
                except RuntimeError:  # no convergence within its limit of calls
                    continue
                positions[k] = found[:2]
        return positions

    return place


def _upstream_weights() -> str | None:
    """The published checkpoint, where there is one; it is not free to ship."""
    folder = os.environ.get("BRAGGFLOW_REAL_DATA")
    path = Path(folder or "") / "braggnn_upstream" / "fc16_8_4_2-sz11.pth"
    return str(path) if folder and path.exists() else None


def upstream_braggnn() -> Placer:
    """The published network as its code runs it, in eager PyTorch."""
    checkpoint = _upstream_weights()
    settings = LocateConfig(network=checkpoint or "braggnn", device="cpu")
    model = load_localiser(settings, SIZE).model
    assert isinstance(model, BraggNN)
    return lambda patches: published_form(model, patches.counts)


def network(name: str) -> Placer:
    """braggflow's own network of this name."""
    localiser = load_localiser(LocateConfig.model_validate({"network": name, "device": "cpu"}), SIZE)
    return lambda patches: locate_patches(localiser, patches.counts, patches.state).positions


FIT, BRAGGNN, COMPACT = "braggflow, Gaussian fit", "braggflow, braggnn", "braggflow, compact"
#: Each with those of ours that it is compared with (none: ours).
PLACERS: dict[str, tuple[Callable[[], Placer], tuple[str, ...]]] = {
    FIT: (gaussian_fit, ()),
    "curve_fit, the same pixel-integrated model": (lambda: curve_fitted(integrated=True), (FIT,)),
    "curve_fit, model at the pixels' centres": (lambda: curve_fitted(integrated=False), (FIT,)),
    BRAGGNN: (lambda: network("braggnn"), ()),
    COMPACT: (lambda: network("compact"), ()),
    "BraggNN as published, eager PyTorch": (upstream_braggnn, (BRAGGNN, COMPACT)),
}


def use_one_thread() -> None:
    torch.set_num_threads(1)
