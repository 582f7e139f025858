"""Programs of far-field HEDM: MIDAS' peaks and HEXRD's spots.

MIDAS' peaks: `AllPeaks_PS.bin`, what its peak fit hands to the merging of peaks.

int32 frames; int32 peaks[frames]; int64 place[frames] in the file, bytes; then 29 doubles a peak: MIDAS,
FF_HEDM/src/PeaksFittingConsolidatedIO.h; midas-peakfit, output.py and postfit.py. With ImTransOpt 0, YCen is the fast
axis (x) and ZCen the slow one (y), in indices of pixels. Radius and Eta are about a beam's centre that the peak table
does not know, and NaN.

HEXRD's table of spots, `spots_NNNNN.out` of pull-spots.

A line of names and 17 columns: HEXRD, instrument/hedm_instrument.py, PatchDataWriter. `meas X` and `meas Y` are
millimetres from the middle of the detector, X to the right and Y upwards, as PlanarDetector.cartToPixel has it: row
(Y_max - Y) / pitch - 0.5, column (X - X_min) / pitch - 0.5, so that the middle of the first pixel is (0, 0). Angles are
radians. The file knows no frames: a spot lies in the one whose `omega` is nearest.
"""

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.exchange.lists import PeakList, numbers_of_text
from braggflow.exchange.rows import Detector, Rows, peak_counts, values_of
from braggflow.peak_table import Flag

#: Columns of a row of MIDAS.
_PEAK = (
    *("SpotID", "IntegratedIntensity", "Omega", "YCen", "ZCen", "IMax", "Radius", "Eta", "SigmaR", "SigmaEta"),
    *("NrPixels", "NrPxTot", "nPeaks", "maxY", "maxZ", "diffY", "diffZ", "rawIMax", "returnCode", "retVal", "BG"),
    *("SigmaGR", "SigmaLR", "SigmaGEta", "SigmaLEta", "MU", "RawSumIntensity", "maskTouched", "FitRMSE"),
)
#: Those that say what one of our columns says.
_SAME = {
    "IntegratedIntensity": "intensity",
    "Omega": "omega",
    "YCen": "x",
    "ZCen": "y",
    "IMax": "amplitude",
    "NrPixels": "area",
    "NrPxTot": "area",
    "maxY": "x_pixel",
    "maxZ": "y_pixel",
    "rawIMax": "birth",
    "BG": "background",
    "MU": "eta",
}


def _write_midas(path: Path, rows: Rows) -> None:
    """Frames from 0 to the last one."""
    frames = rows.frames
    if len(frames) and frames[0] < 0:
        raise InputError(f"--to midas: frame {frames[0]} is below 0; the format counts frames from 0")
    counts = np.zeros(int(frames[-1]) + 1 if len(frames) else 0, np.int32)
    counts[frames] = peak_counts(rows)
    first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    head = 4 + len(counts) * 12
    with path.open("wb") as file:
        file.write(np.int32(len(counts)).tobytes() + counts.tobytes())
        file.write((head + first[:-1] * 8 * len(_PEAK)).astype(np.int64).tobytes())
        start = 0
        for chunk in rows.chunks():
            number = start + np.arange(chunk.sizes["peak"]) - first[chunk["peak_frame"].values] + 1
            file.write(_peak_rows(chunk, number).tobytes())
            start += chunk.sizes["peak"]


def _peak_rows(chunk: xr.Dataset, number: NDArray[np.int64]) -> NDArray[np.float64]:
    found = dict.fromkeys(_PEAK, np.full(chunk.sizes["peak"], np.nan))
    found |= {name: values_of(chunk, ours) for name, ours in _SAME.items()}
    found["SpotID"] = number.astype(np.float64)
    found["diffY"], found["diffZ"] = found["maxY"] - found["YCen"], found["maxZ"] - found["ZCen"]
    found["RawSumIntensity"] = found["IntegratedIntensity"]
    flags = chunk["flags"].values if "flags" in chunk else np.zeros(chunk.sizes["peak"], np.uint16)
    found["maskTouched"] = (flags & Flag.masked != 0).astype(np.float64)
    found["returnCode"], found["nPeaks"] = np.zeros(len(number)), np.ones(len(number))
    return np.stack([found[name] for name in _PEAK], axis=1)


def _read_midas(path: Path) -> PeakList:
    content = path.read_bytes()
    try:
        n = int(np.frombuffer(content, np.int32, 1)[0])
        counts = np.frombuffer(content, np.int32, n, 4)
        places = np.frombuffer(content, np.int64, n, 4 + 4 * n)
        tables = [
            np.frombuffer(content, np.float64, count * len(_PEAK), place).reshape(count, len(_PEAK))
            for count, place in zip(counts.tolist(), places.tolist(), strict=True)
            if count
        ]
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as AllPeaks_PS.bin of MIDAS ({error})") from error
    table = np.concatenate([np.empty((0, len(_PEAK))), *tables])
    found = dict(zip(_PEAK, table.T, strict=True))
    columns = {ours: found[name] for name, ours in _SAME.items() if name != "NrPxTot"}
    columns["flags"] = np.where(found["maskTouched"] > 0, np.uint16(Flag.masked), np.uint16(0))
    columns["peak_frame"] = np.repeat(np.arange(n), counts)
    unread = ("Radius", "Eta", "SigmaR", "SigmaEta")
    return PeakList(
        {name: values for name, values in columns.items() if name != "omega"},
        np.arange(n),
        unread=[name for name in unread if np.isfinite(found[name]).any()],
    )


#: Columns of a row of HEXRD.
_SPOT = (
    *("ID", "PID", "H", "K", "L", "sum(int)", "max(int)", "pred tth", "pred eta", "pred ome"),
    *("meas tth", "meas eta", "meas ome", "pred X", "pred Y", "meas X", "meas Y"),
)


def _write_hexrd(path: Path, rows: Rows) -> None:
    _, (pitch_y, pitch_x), middle_y, middle_x = _scale(rows.detector, "--to hexrd")
    if "omega" not in rows.names:
        raise InputError("--to hexrd: the table has no omega; the format tells frames by it")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("# " + "  ".join(_SPOT) + "\n")
        number = 0
        for chunk in rows.chunks():
            n = chunk.sizes["peak"]
            unknown = np.full(n, np.nan)
            columns = [
                *(values_of(chunk, "intensity"), values_of(chunk, "birth"), unknown, unknown, unknown),
                *(np.radians(values_of(chunk, "two_theta")), unknown, np.radians(chunk["omega"].values)),
                *(unknown, unknown),
                *((chunk["x"].values - middle_x) * pitch_x, (middle_y - chunk["y"].values) * pitch_y),
            ]
            for values in np.stack(columns, axis=1).tolist():
                file.write(f"{number:<6d}  {-1:<6d}  0  0  0  " + "  ".join(map(repr, values)) + "\n")
                number += 1


def _scale(detector: Detector, name: str) -> tuple[tuple[int, int], tuple[float, float], float, float]:
    """Shape, pitch (y, x) in mm, and the middle of the detector (y, x), pixels."""
    shape, pitch = detector
    if shape is None:
        raise InputError(f"{name}: needs the shape of the frames; give a run folder, or --frames STORE")
    if pitch is None:
        raise InputError(f"{name}: needs the pitch of the pixels, which nothing states; give --pixel-size MICROMETRES")
    return shape, pitch, (shape[0] - 1) / 2, (shape[1] - 1) / 2


def _read_hexrd(path: Path, detector: Detector) -> PeakList:
    """Spots that were measured; of predictions without a measurement there are none."""
    _, (pitch_y, pitch_x), middle_y, middle_x = _scale(detector, f"{path}")
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.readline()
    if "meas X" not in head:
        raise InputError(f"{path}: has no column meas X in its first line; must be a table of spots of HEXRD")
    wanted = ("sum(int)", "max(int)", "meas ome", "meas X", "meas Y")
    found = numbers_of_text(path, _SPOT, r"\s+", 1, wanted)
    measured = np.isfinite(found["meas X"]) & np.isfinite(found["meas Y"])
    columns = {
        "y": middle_y - found["meas Y"] / pitch_y,
        "x": middle_x + found["meas X"] / pitch_x,
        "intensity": found["sum(int)"],
        "birth": found["max(int)"],
        "omega": np.degrees(found["meas ome"]),
    }
    return PeakList(
        {name: values[measured] for name, values in columns.items()},
        unread=["H", "K", "L", "meas tth", "meas eta"],
    )


WRITERS = {"midas": _write_midas, "hexrd": _write_hexrd}
READERS = {"midas": _read_midas, "hexrd": _read_hexrd}
