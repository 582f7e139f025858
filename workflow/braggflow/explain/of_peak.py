"""A peak: what network and fit say of it, which position was used and why, its flags, its model."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.detect import JudgedMaxima
from braggflow.explain.findings import Image, Maximum
from braggflow.explain.found_frame import FoundFrame
from braggflow.explain.of_maximum import at, background_words, persistence_words
from braggflow.locate import IN_DOMAIN
from braggflow.patches import State
from braggflow.peak_table import FLAG_MEANINGS, Flag, Method, Table, to_dataset
from braggflow.pipeline import CLEARLY_SURER, MAX_OFFSET
from braggflow.simulate import DISK_DTYPE, FWHM_PER_SIGMA, PROFILE_DTYPE, expected_disks, expected_patches

#: Neighbours that are named, the nearest first.
_NAMED = 3
#: σ of the edge of a disk, pixels: the table does not hold the fitted one, and the nearest of these is drawn.
_EDGES = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2)


def row_as_dataset(found: FoundFrame, rows: NDArray[np.int64]) -> xr.Dataset:
    """Rows of the frame's table as the Dataset of a run has them."""
    opened = found.opened
    coords = opened.data[["frame"]].isel(frame=opened.positions[found.position : found.position + 1]).load()
    return to_dataset(found.table, coords, (), {"source": "explanation"}).isel(peak=rows)


def model_of(
    found: FoundFrame, row: int, main: int, patch: int, middle: tuple[int, ...]
) -> tuple[Image | None, Image | None]:
    """Expected counts of a patch by the fits of its peak and of those around it, and the residual in sigma.

    Each profile is that of its own row, on the background of the peak's; None where the peak has no fit.
    """
    table, config = found.table, found.opened.config
    if not np.isfinite(table["y_fit"][row]):
        return None, None
    size, scale = config.patches.size, found.bin
    reach = (size + 2 * np.nan_to_num(table["fwhm_major"])) * scale
    dy, dx = (table[f"{name}_pixel"] - table[f"{name}_pixel"][main] for name in "yx")
    shown = np.isfinite(table["y_fit"]) & (np.maximum(np.abs(dy), np.abs(dx)) <= reach)
    if config.patches.neighbours != "fit_together" or config.fit.model == "disk":
        shown &= (table["parent"] == main) | (np.arange(len(table)) == main)
    corner = found.on_detector(middle[0] - size // 2, middle[1] - size // 2)
    counts, state = found.patches.counts[patch], found.patches.state[patch]
    fitted = state <= (State.OTHER if config.fit.model != "disk" else State.OWN)
    models = [
        float(table["background"][row]) * scale**2 + _profiles(table[shown], corner, size, scale, edge)
        for edge in (_EDGES if config.fit.model == "disk" else _EDGES[:1])
    ]
    model = min(models, key=lambda one: float(np.sum((counts - one)[fitted] ** 2)))
    counts_per_photon, read_noise = config.frames.noise.values()
    # Pixels without light have the scatter of a photon's tenth at least: a model of none would know them exactly.
    deviation = np.sqrt(counts_per_photon * np.maximum(model, 0.01 * counts_per_photon) + read_noise**2)
    residual = (counts - model) / deviation
    return model.astype(np.float32), np.where(fitted, residual, np.nan).astype(np.float32)


def _profiles(rows: Table, corner: tuple[float, float], size: int, scale: int, edge: float) -> NDArray[np.float64]:
    """Sum of fitted profiles, without background, in a patch of searched pixels; disks with an edge of this σ."""
    is_disk = rows["method"] == Method.disk
    disks = np.zeros(int(is_disk.sum()), DISK_DTYPE)
    profiles = np.zeros(int((~is_disk).sum()), PROFILE_DTYPE)
    for into, of in ((disks, rows[is_disk]), (profiles, rows[~is_disk])):
        for axis, name in enumerate("yx"):
            into[name] = (of[f"{name}_fit"] - corner[axis]) / scale
    disks["radius"] = rows["fwhm_major"][is_disk] / 2 / scale
    disks["edge"], disks["amplitude"] = edge, rows["amplitude"][is_disk] * scale**2
    of = rows[~is_disk]
    for name in ("major", "minor"):
        profiles[f"sigma_{name}"] = of[f"fwhm_{name}"] / FWHM_PER_SIGMA / scale
    profiles["height"], profiles["angle"], profiles["eta"] = of["amplitude"] * scale**2, of["angle"], of["eta"]
    return np.asarray(expected_patches(profiles, size).sum(axis=0) + expected_disks(disks, size).sum(axis=0))


def peak_words(
    found: FoundFrame,
    judged: JudgedMaxima,
    row: int,
    patch: int,
    maximum: Maximum | None,
    neighbours: NDArray[np.int64],
) -> list[str]:
    """All there is to say of a peak, a sentence each."""
    peak = found.table[row]
    words = [f"Peak {_position(peak, '')} in frame {found.number}, by {_method(peak)}."]
    if peak["parent"] >= 0:
        parent = found.table[peak["parent"]]
        words.append(
            f"It has no maximum of its own: the fit told it apart from the peak at {_place(parent)}, in whose patch it "
            "is."
        )
    elif maximum is not None:
        words += _maximum_words(found, judged, maximum)
    else:
        words.append(
            f"It is the middle of a disk; of the maxima on that, the highest is born at {peak['birth']:.4g} counts and "
            f"dies at {peak['death']:.4g}, with a significance of {peak['significance']:.2f}."
        )
    words += [_patch_words(found, patch), _fit_words(peak)]
    if peak["parent"] < 0:
        words.append(_network_words(found, peak, patch))
    light = f"Its intensity is {_value(peak['intensity'], peak['intensity_std'], 0)} counts"
    light += f"; snr {peak['snr']:.3g}, in the aperture that shows most."
    words += [_decision(found, peak, patch), light, _neighbour_words(found.table[neighbours])]
    return words + flag_words(found, peak, patch)


def _maximum_words(found: FoundFrame, judged: JudgedMaxima, maximum: Maximum) -> list[str]:
    detect = found.opened.config.detect
    pixel = found.searched_pixel(*maximum.place)
    above = "" if detect.background == "none" else " above the background"
    words = (
        f"Its maximum is the pixel {at(maximum.place)} with {found.frame.counts[pixel]:.5g} counts; "
        f"{background_words(judged, pixel)}."
    )
    rule = (
        f"cut at {maximum.least:.2f} (detect.false_peaks: {detect.false_peaks:g})"
        if detect.false_peaks is not None
        else "levels alone decide (detect.false_peaks: null)"
    )
    (persistence,) = persistence_words(maximum, judged)
    return [
        words,
        persistence.replace(" counts", f" counts{above}", 1),
        f"Significance {maximum.significance:.2f}, {rule}.",
    ]


def _patch_words(found: FoundFrame, patch: int) -> str:
    state = found.patches.state[patch]
    names = (
        "its own",
        "nearer to a neighbour's maximum",
        "saturated",
        "missing (ignored, beyond the frame, or a neighbour's)",
    )
    counts = [(int(np.count_nonzero(state == kind)), name) for kind, name in zip(State, names, strict=True)]
    listed = ", ".join(f"{n} {name}" for n, name in counts if n)
    return f"Its patch of {state.shape[0]} × {state.shape[1]} pixels: {listed}."


def _fit_words(peak: Any) -> str:
    if not np.isfinite(peak["y_fit"]):
        return "It was not fitted (fit.fraction)." if not peak["flags"] & Flag.fit_failed else "The fit failed."
    major, minor = (_value(peak[f"fwhm_{axis}"], peak[f"fwhm_{axis}_std"], 2) for axis in ("major", "minor"))
    return (
        f"The fit puts it {_position(peak, '_fit')}: {peak['amplitude']:.4g} counts high on {peak['background']:.4g}, "
        f"FWHM {major} × {minor} px, chi2 {peak['chi2']:.2f}."
    )


def _network_words(found: FoundFrame, peak: Any, patch: int) -> str:
    if not found.opened.config.locate.asks_network:
        return "No network was asked (locate.network: none)."
    std = found.network_std[patch]
    words = f"The network puts it at {_value(peak['y_network'], std[0])}, {_value(peak['x_network'], std[1])} px"
    if np.isfinite(peak["disagreement"]):
        words += f", {peak['disagreement']:.3f} px from the fit"
    if np.isfinite(peak["domain_probability"]):
        words += (
            f"; it is of the kind that the network was made for with a probability of {peak['domain_probability']:.2f}"
        )
    return words + "."


def _decision(found: FoundFrame, peak: Any, patch: int) -> str:
    """Which position is used, and why: the rule of `pipeline.assembly`."""
    locate, method = found.opened.config.locate, Method(int(peak["method"]))
    key = f"locate.position: {locate.position}"
    if peak["parent"] >= 0:
        return "The fit's position is used: no network was shown this peak."
    fitted = bool(np.isfinite(peak["y_fit"]))
    if method in (Method.braggnn, Method.compact):
        if locate.position == "network":
            return f"The network's position is used, as asked for ({key})."
        if not fitted:
            return f"The network's position is used ({key}): there is no fit, and the peak is in the network's domain."
        return (
            f"The network's position is used ({key}): its uncertainty, {_larger(found.network_std[patch])} px, is "
            f"below {CLEARLY_SURER:g} times the fit's, {_larger(_fit_std(peak))} px, and the two agree."
        )
    if method in (Method.centroid, Method.pixel):
        what = "centroid" if method == Method.centroid else "pixel of the maximum"
        network = "the network was not asked" if not locate.asks_network else "the peak is out of the network's domain"
        none = "" if method == Method.centroid else ", and no pixel is above the background"
        return f"The {what} is used ({key}): there is no fit, and {network}{none}."
    return f"The fit's position is used ({key}){_why_not_the_network(found, peak, patch)}."


def _why_not_the_network(found: FoundFrame, peak: Any, patch: int) -> str:
    if found.opened.config.locate.position == "fit" or not found.opened.config.locate.asks_network:
        return ""
    if peak["flags"] & Flag.out_of_domain:
        return ": the peak is out of the network's domain"
    if peak["flags"] & (Flag.deblended | Flag.blend):
        return ": there are several peaks in the patch, of which a network is no judge"
    if peak["flags"] & Flag.disagree:
        return ": the network disagrees with it"
    own, fit = found.network_std[patch], _fit_std(peak)
    if np.isnan(own).any():
        return ": the network states no uncertainty"
    if own.max() < CLEARLY_SURER * fit.max():
        return ": there are several peaks in the patch, of which a network is no judge"
    return (
        f": the network is not clearly surer, its uncertainty, {_larger(own)} px, is not below {CLEARLY_SURER:g} times "
        f"the fit's, {_larger(fit)} px"
    )


def _fit_std(peak: Any) -> NDArray[np.float32]:
    return np.array([peak["y_fit_std"], peak["x_fit_std"]], np.float32)


def _larger(std: NDArray[np.float32]) -> str:
    return f"{std.max():.3f}"


def _neighbour_words(near: Table) -> str:
    if not len(near):
        return "No other peak has its maximum in the patch."
    named = ", ".join(_place(one) for one in near[:_NAMED])
    more = f" and {len(near) - _NAMED} more" if len(near) > _NAMED else ""
    return f"{len(near)} other {'peaks have' if len(near) > 1 else 'peak has'} a maximum in the patch: {named}{more}."


def flag_words(found: FoundFrame, peak: Any, patch: int) -> list[str]:
    """For each flag of a peak what it means, and why it is set here."""
    config, state = found.opened.config, found.patches.state[patch]
    beyond = _beyond(found, patch)
    table = found.table
    pieces = int(np.count_nonzero(table["parent"] == (peak["parent"] if peak["parent"] >= 0 else _row(table, peak))))
    domain = peak["domain_probability"]
    here = {
        Flag.edge: f"{beyond} pixels do",
        Flag.masked: f"{int(np.count_nonzero(np.isnan(found.window(*_middle(found, patch))))) - beyond} pixels",
        Flag.saturated: f"{np.count_nonzero(state == State.FULL)} pixels",
        Flag.overlap: _overlap(found, patch),
        Flag.fit_failed: "its position is not used",
        Flag.out_of_domain: f"probability {domain:.2f}, needed {IN_DOMAIN:g}"
        if domain < IN_DOMAIN
        else f"the network's position is more than {MAX_OFFSET:g} px from the maximum",
        Flag.low_snr: f"{peak['snr']:.2f}, patches.flag_snr_below: {config.patches.flag_snr_below:g}",
        Flag.disagree: f"{peak['disagreement']:.3f} px, locate.max_disagreement: {config.locate.max_disagreement:g}",
        Flag.at_bound: "the fit's numbers are not used",
        Flag.deblended: f"{pieces + 1} peaks in this patch",
        Flag.blend: "see the residual",
        Flag.ring: "what lies above half of its height is long and narrow",
    }
    return [f"Flag {flag.name}: {FLAG_MEANINGS[flag]} ({here[flag]})." for flag in Flag if peak["flags"] & flag]


def _overlap(found: FoundFrame, patch: int) -> str:
    """The nearest other maximum, and how many pixels of the patch are a neighbour's."""
    of, state = found.searched, found.patches.state[patch]
    away = np.hypot(of["y_pixel"] - of["y_pixel"][patch], of["x_pixel"] - of["x_pixel"][patch])
    away[patch] = np.inf
    nearest = int(np.argmin(away))
    place = at(found.on_detector(of["y_pixel"][nearest], of["x_pixel"][nearest]))
    theirs = (state == State.OTHER) | ((state == State.MISSING) & np.isfinite(found.window(*_middle(found, patch))))
    return f"the nearest is {away[nearest] * found.bin:.1f} px away at {place}; {theirs.sum()} pixels are a neighbour's"


def _row(table: Table, peak: Any) -> int:
    return int(np.flatnonzero((table["y_pixel"] == peak["y_pixel"]) & (table["x_pixel"] == peak["x_pixel"]))[0])


def _middle(found: FoundFrame, patch: int) -> tuple[int, int]:
    return int(found.searched["y_pixel"][patch]), int(found.searched["x_pixel"][patch])


def _beyond(found: FoundFrame, patch: int) -> int:
    """Pixels of a patch beyond the frame."""
    size = found.opened.config.patches.size
    inside = 1
    for middle, n in zip(_middle(found, patch), found.frame.counts.shape, strict=True):
        inside *= min(n, middle + size // 2 + 1) - max(0, middle - size // 2)
    return size**2 - inside


def _position(peak: Any, of: str) -> str:
    values = (_value(peak[f"{axis}{of}"], peak[f"{axis}{of}_std"]) for axis in "yx")
    return "at y = {}, x = {} px".format(*values)


def _value(value: float, std: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" + (f" ± {std:.{digits}f}" if np.isfinite(std) else "")


def _place(peak: Any) -> str:
    return f"({peak['y']:.1f}, {peak['x']:.1f})"


def _method(peak: Any) -> str:
    method = Method(int(peak["method"]))
    kinds = {Method.centroid: "its centroid", Method.pixel: "its highest pixel"}
    named = f"the network {method.name}" if method in (Method.braggnn, Method.compact) else f"a fit ({method.name})"
    return kinds.get(method, named)
