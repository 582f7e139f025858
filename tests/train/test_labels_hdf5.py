from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.patches import State
from braggflow.train import labels as labels_module
from braggflow.train import labels_from_hdf5
from tests.train.labelled_runs import draw_frames

N_FRAMES = 8


@pytest.fixture(scope="module")
def drawn() -> tuple[NDArray[np.uint16], NDArray[np.void]]:
    return draw_frames(N_FRAMES, seed=5)


def columns(profiles: NDArray[np.void]) -> dict[str, Any]:
    """The file of peaks that the drawn profiles make, in the dtypes of the published one."""
    n = profiles.size
    return {
        "peak_fidx": np.repeat(np.arange(len(profiles)), profiles.shape[1]).astype(np.uint32),
        "peak_row": profiles["y"].ravel().astype(np.float32),
        "peak_col": profiles["x"].ravel().astype(np.float32),
        "npeaks": np.ones(n, np.uint16),
        "deviations": np.full(n, 0.2, np.float32),
    }


def write(folder: Path, frames: NDArray[Any], columns: dict[str, Any]) -> tuple[Path, Path]:
    with h5py.File(folder / "frames.h5", "w") as file:
        file["frames"] = frames
    with h5py.File(folder / "peaks.h5", "w") as file:
        for name, values in columns.items():
            file[name] = values
    return folder / "frames.h5", folder / "peaks.h5"


def test_a_peak_at_a_known_place_gives_that_offset(
    tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]]
) -> None:
    images, profiles = drawn
    done: list[tuple[int, int]] = []
    files = write(tmp_path, images.astype(np.float32), columns(profiles))
    collected = labels_from_hdf5(*files, progress=lambda *step: done.append(step))
    found = collected.labels
    assert done == [(k + 1, N_FRAMES) for k in range(N_FRAMES)]
    assert len(found) == profiles.size
    assert collected.dropped == {}
    place = 0
    for k, image in enumerate(images):
        own = found.select(found.frame == k)
        # In each frame as in the file: the pixel under a patch's centre, with the offset, is where the peak was drawn.
        position = np.stack([profiles[k]["y"], profiles[k]["x"]], axis=1).astype(np.float32)
        centre = position - own.offset
        np.testing.assert_allclose(centre, np.round(centre), atol=1e-6)
        for (y, x), patch, state in zip(np.round(centre).astype(int), own.photons, own.state, strict=True):
            assert patch[5, 5] == image[y, x] == image[y - 1 : y + 2, x - 1 : x + 2].max()
            if min(y, x) >= 5 and max(y, x) < 91:
                np.testing.assert_array_equal(patch, image[y - 5 : y + 6, x - 5 : x + 6])
                assert (state == State.OWN).all()
            place += 1
    assert place == profiles.size
    assert 0.004 < np.median(found.std) < 0.05  # of our own fits


def test_the_order_of_the_peaks_does_not_matter_and_the_first_frame_is_0(
    tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]]
) -> None:
    images, profiles = drawn
    straight = labels_from_hdf5(*write(tmp_path, images, columns(profiles))).labels
    order = np.random.default_rng(0).permutation(profiles.size)
    mixed = labels_from_hdf5(*write(tmp_path, images, {k: v[order] for k, v in columns(profiles).items()})).labels
    assert sorted(np.unique(mixed.frame)) == list(range(N_FRAMES))
    for k in range(N_FRAMES):
        ours, theirs = (set(map(bytes, part.photons[part.frame == k])) for part in (straight, mixed))
        assert ours == theirs


def test_only_single_peaks_whose_fit_lies_near_their_maximum_are_labels(
    tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]]
) -> None:
    images, profiles = drawn
    peaks = columns(profiles)
    peaks["npeaks"][:3] = (2, 0, 3)
    peaks["deviations"][3:8] = (-1, 1, 0, 0.999, np.nan)
    peaks["peak_row"][0] = 1e6  # what is not taken need not make sense
    collected = labels_from_hdf5(*write(tmp_path, images, peaks))
    assert len(collected.labels) == profiles.size - 6
    assert collected.dropped == {"several_peaks": 3, "deviation": 3}


def test_other_peaks_of_the_file_own_their_pixels(
    tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]]
) -> None:
    images, profiles = drawn
    peaks = columns(profiles)
    y, x = np.round([peaks["peak_row"][14], peaks["peak_col"][14]]).astype(int)
    for name, value in (("peak_fidx", 0), ("peak_row", y), ("peak_col", x + 6), ("npeaks", 2), ("deviations", 0)):
        peaks[name] = np.append(peaks[name], np.asarray(value, peaks[name].dtype))
    found = labels_from_hdf5(*write(tmp_path, images, peaks)).labels
    near = found.select(np.flatnonzero((found.state == State.OTHER).any(axis=(1, 2))))
    assert 14 in np.flatnonzero((found.state == State.OTHER).any(axis=(1, 2)))
    assert near.overlap.all()


def test_counts_are_divided_by_the_gain(tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]]) -> None:
    images, profiles = drawn
    plain = labels_from_hdf5(*write(tmp_path, images, columns(profiles))).labels
    brighter = labels_from_hdf5(
        *write(tmp_path, images * np.float32(4), columns(profiles)), counts_per_photon=4.0
    ).labels
    np.testing.assert_array_equal(plain.photons, brighter.photons)
    np.testing.assert_allclose(plain.std, brighter.std, rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"npeaks": None},
            r"peaks\.h5: has no data set npeaks \(it has deviations, .*\); must hold peak_fidx, peak_row",
        ),
        ({"peak_col": slice(0, 5)}, r"peaks\.h5: its data sets must be of one length, have .*peak_col 5, npeaks 288"),
        ({"npeaks": np.ones((288, 2))}, r"peaks\.h5: npeaks has shape \(288, 2\), must have 1 axes"),
        ({"peak_fidx": (7, 8)}, r"peaks\.h5: peak_fidx\[7\] is 8, the frames allow 0 to 7"),
        ({"peak_row": (3, 95.5)}, r"peaks\.h5: peak_row\[3\] is 95\.5, the frames allow 0 to 95"),
        ({"peak_col": (3, np.nan)}, r"peaks\.h5: peak_col\[3\] is nan, the frames allow 0 to 95"),
        ({"npeaks": np.full(288, 2)}, r"peaks\.h5: has 0 labels to learn from, .* \(left out: 288 several_peaks\)"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]], changed: dict[str, Any], message: str
) -> None:
    images, profiles = drawn
    peaks = columns(profiles)
    for name, change in changed.items():
        if change is None:
            del peaks[name]
        elif isinstance(change, slice):
            peaks[name] = peaks[name][change]
        elif isinstance(change, tuple):
            peaks[name][change[0]] = change[1]
        else:
            peaks[name] = change
    with pytest.raises(InputError, match=message):
        labels_from_hdf5(*write(tmp_path, images, peaks))


def test_files_that_are_none_are_refused_by_name(
    tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]]
) -> None:
    frames_file, peaks_file = write(tmp_path, drawn[0], columns(drawn[1]))
    with pytest.raises(InputError, match=r"nothing\.h5: cannot be read as HDF5"):
        labels_from_hdf5(tmp_path / "nothing.h5", peaks_file)
    with pytest.raises(InputError, match=r"peaks\.h5: has no data set frames \(it has .*\); must hold frames"):
        labels_from_hdf5(peaks_file, peaks_file)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match=r"text\.h5: cannot be read as HDF5"):
        labels_from_hdf5(frames_file, tmp_path / "text.h5")
    with h5py.File(frames_file, "w") as file:
        file["frames"] = drawn[0][0]
    with pytest.raises(InputError, match=r"frames\.h5: frames has shape \(96, 96\), must have 3 axes"):
        labels_from_hdf5(frames_file, peaks_file)


def test_a_fit_that_cannot_be_trusted_makes_no_label(
    tmp_path: Path, drawn: tuple[NDArray[np.uint16], NDArray[np.void]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, profiles = drawn
    noise = images.copy()
    noise[2] = 5  # the file's peaks are not there
    collected = labels_from_hdf5(*write(tmp_path, noise, columns(profiles)))
    assert 2 not in collected.labels.frame
    assert sum(collected.dropped.values()) == profiles.shape[1]
    assert set(collected.dropped) <= {"no_fit", "uncertain", "misfit", "no_peak"}
    monkeypatch.setattr(labels_module, "MIN_LABELS", 260)
    with pytest.raises(
        InputError, match=r"has 252 labels to learn from, at least 260 are needed \(left out: 36 no_fit\)"
    ):
        labels_from_hdf5(tmp_path / "frames.h5", tmp_path / "peaks.h5")
