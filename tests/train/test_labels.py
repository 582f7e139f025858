from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.frames import open_series, unbinned
from braggflow.peak_table import Flag
from braggflow.pipeline import search_chunk
from braggflow.results import RunFolder, open_peaks, open_run_frames, read_run_config
from braggflow.simulate import FWHM_PER_SIGMA, PatchSimulation, simulate_patches
from braggflow.train import labels as labels_module
from braggflow.train import labels_from_run, simulation_like
from braggflow.train.labels import BLOCKS, LEAST_SHARE, WIDER_LIGHT, WIDER_SHAPE, block_of, thinned, trusted
from tests.train.labelled_runs import BACKGROUND, HEIGHT, RATIO, SIGMA, draw_frames, labelled_run

N_FRAMES = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_run(tmp_path_factory.mktemp("run"), N_FRAMES)


def good_fits(n: int) -> peak_table.Table:
    """Fits of isolated, bright peaks with sigma 1 px."""
    table = peak_table.empty(n)
    for names, value in {
        ("peak_frame",): 0,
        ("y_fit", "x_fit"): 20.0,
        ("y_fit_std", "x_fit_std"): 0.02,
        ("fwhm_major", "fwhm_minor"): FWHM_PER_SIGMA,
        ("amplitude",): 500.0,
        ("background",): 5.0,
        ("chi2",): 1.0,
        ("snr",): 50.0,
    }.items():
        for name in names:
            table[name] = value
    return table


# Patches, cut again.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bin_size": 2},
        {"bin_size": 3, "frames": {"counts_per_photon": 4.0}},
        {"patches": {"size": 15, "neighbours": "mask"}},
        {"detect": {"background": "local", "minval": 20.0}},
    ],
    ids=["plain", "binned by 2", "binned by 3, with a gain", "overlapping", "on a local background"],
)
def test_patches_cut_again_are_those_that_the_run_saw(tmp_path: Path, options: dict[str, Any]) -> None:
    run = labelled_run(tmp_path, N_FRAMES, **options)
    config = read_run_config(RunFolder(run))
    data = open_run_frames(RunFolder(run)).data
    seen = search_chunk(open_series(data, config), 0, N_FRAMES)
    photons = seen.patches.counts / np.float32(config.frames.counts_per_photon)
    row_of = {
        (frame, patch.tobytes(), state.tobytes()): row
        for row, (frame, patch, state) in enumerate(
            zip(seen.table["peak_frame"], photons, seen.patches.state, strict=True)
        )
    }
    found = labels_from_run(run).labels
    assert len(found) > 0.8 * len(seen.table)
    rows = [
        row_of[frame, patch.tobytes(), state.tobytes()]
        for frame, patch, state in zip(found.frame, found.photons, found.state, strict=True)
    ]
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(found.overlap, seen.table["flags"][rows] & Flag.overlap != 0)

    # A label is its peak's fit: with the pixel that the patch was cut at, the position in the table.
    table = open_peaks(run)
    for axis, name in enumerate("yx"):
        position = unbinned(seen.table[f"{name}_pixel"][rows] + found.offset[:, axis], config.frames.bin)
        in_table = {tuple(pair) for pair in zip(table["peak_frame"].values, table[f"{name}_fit"].values, strict=True)}
        nearest = np.array([min(abs(p - q) for f, q in in_table if f == k) for k, p in zip(found.frame, position)])  # noqa: B905
        assert nearest.max() < 1e-9


def test_labels_are_true_to_within_their_errors(tmp_path: Path) -> None:
    run = labelled_run(tmp_path, N_FRAMES, bin_size=2, seed=3)
    _, profiles = draw_frames(N_FRAMES, bin_size=2, seed=3)
    found = labels_from_run(run).labels
    truth = np.stack([(profiles[name] - 0.5) / 2 for name in "yx"], axis=-1)  # of the binned frames
    for k in range(N_FRAMES):
        own = found.select(found.frame == k)
        # The brightest pixel is within 0.5 px and the noise of the centre: what is left of it is the offset.
        distance = (own.offset[:, None] - truth[k][None] + np.round(truth[k][None] - own.offset[:, None])) / own.std[
            :, None
        ]
        assert np.median(np.linalg.norm(distance, axis=2).min(axis=1)) < 2
    assert abs(found.offset).max() < 1.5
    sigma = found.fwhm / FWHM_PER_SIGMA
    assert SIGMA[0] < np.median(sigma[:, 0]) < np.median(sigma[:, 1]) < SIGMA[1] * RATIO[1]


def test_frames_without_labels_are_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "MIN_LABELS", 1)
    monkeypatch.setattr(
        labels_module, "trusted", lambda table, **_: (np.isin(table["peak_frame"], (2, 5)), {"uncertain": 7})
    )
    done: list[tuple[int, int]] = []
    collected = labels_from_run(run, progress=lambda *step: done.append(step))
    assert np.unique(collected.labels.frame).tolist() == [2, 5]
    assert np.unique(collected.labels.block).tolist() == [2, 5]
    assert collected.dropped == {"uncertain": 7}
    assert done == [(1, 2), (2, 2)]


# Which fits are trusted.


@pytest.mark.parametrize(
    ("reason", "changed"),
    [
        ("no_fit", {"y_fit_std": np.nan}),
        ("no_fit", {"flags": Flag.fit_failed}),
        ("saturated", {"flags": Flag.saturated | Flag.overlap}),
        ("uncertain", {"x_fit_std": 0.21}),
        ("misfit", {"chi2": 7.1}),
        ("no_peak", {"fwhm_minor": 0.39 * FWHM_PER_SIGMA}),
        ("no_peak", {"fwhm_major": 5.1 * FWHM_PER_SIGMA}),
    ],
)
def test_a_fit_that_cannot_be_trusted_is_left_out_with_its_reason(reason: str, changed: dict[str, float]) -> None:
    table = good_fits(3)
    for name, value in changed.items():
        table[name][1] = value
    kept, dropped = trusted(table, counts_per_photon=1.0, scale=1)
    assert kept.tolist() == [True, False, True]
    assert {name: count for name, count in dropped.items() if count} == {reason: 1}


@pytest.mark.parametrize(
    "flag", [Flag.edge, Flag.overlap, Flag.at_bound, Flag.out_of_domain, Flag.disagree, Flag.low_snr]
)
def test_what_does_not_move_the_centre_is_no_reason(flag: Flag) -> None:
    table = good_fits(1)
    table["flags"] = flag
    assert trusted(table, counts_per_photon=1.0, scale=1)[0].all()


def test_limits_are_in_photons_and_pixels_of_the_patch() -> None:
    table = good_fits(1)
    for name in ("y_fit_std", "x_fit_std", "fwhm_major", "fwhm_minor"):
        table[name] *= 9
    table["chi2"] = 4.0  # allowed by 200 photons: 5000 counts a binned pixel
    table["amplitude"] = 5000 / 81
    assert trusted(table, counts_per_photon=25.0, scale=9)[0].all()
    assert not trusted(table, counts_per_photon=26.0, scale=9)[0].any()
    assert not trusted(table, counts_per_photon=25.0, scale=1)[0].any()


def test_a_run_with_few_labels_is_refused_saying_how_many_and_why(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "MIN_LABELS", 1000)
    monkeypatch.setattr(labels_module, "MAX_STD", 0.01)
    with pytest.raises(
        InputError, match=r"run: has \d\d labels to learn from, at least 1000 are needed \(left out: \d+ unc"
    ):
        labels_from_run(run)


def test_a_run_whose_frames_are_gone_is_refused(tmp_path: Path) -> None:
    run = labelled_run(tmp_path, N_FRAMES)
    chunk = tmp_path / "frames.zarr" / "frames" / "c" / "3" / "0" / "0"
    chunk.unlink()
    with pytest.raises(InputError, match=r"frame 3: chunk frames/c/3/0/0 is missing"):
        labels_from_run(run)
    (tmp_path / "frames.zarr").rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(InputError, match=r"frames.zarr: does not exist"):
        labels_from_run(run)


# Blocks of frames.


@given(st.integers(1, 700), st.integers(0, 3))
@settings(max_examples=60)
def test_blocks_are_consecutive_frames_of_about_one_length(n: int, seed: int) -> None:
    place = np.sort(np.random.default_rng(seed).integers(n, size=3 * n))
    block = block_of(place, n)
    assert (np.diff(block) >= 0).all()
    whole = block_of(np.arange(n), n)
    np.testing.assert_array_equal(block, whole[place])  # a frame's block does not depend on which frames have labels
    lengths = np.bincount(whole)
    assert len(lengths) == min(n, BLOCKS)
    assert lengths.max() - lengths.min() <= 1


@given(st.integers(1, 700), st.integers(1, 40))
@settings(max_examples=60)
def test_of_many_labels_the_first_frames_of_each_block_are_read(n: int, most: int) -> None:
    place = np.repeat(np.arange(n), 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_module, "MAX_LABELS", most * 10 * min(n, BLOCKS))
        kept = thinned(place, n)
    block = block_of(place, n)
    for k in range(min(n, BLOCKS)):
        own = kept[block == k]
        assert own[0]
        assert (np.diff(own.astype(int)) <= 0).all()
        assert abs(own.sum() / 10 - min(most, len(own) / 10)) <= 1


# Ranges for simulated peaks.


def test_the_ranges_of_a_run_hold_those_of_its_peaks_and_little_more(run: Path) -> None:
    config = simulation_like(run)
    for found, true, wider in (
        (config.sigma, SIGMA, WIDER_SHAPE),
        (config.height, HEIGHT, WIDER_LIGHT),
        (config.background, (BACKGROUND, BACKGROUND), WIDER_LIGHT),
    ):
        assert true[0] / wider / 1.4 < found[0] < true[0]
        assert true[1] < found[1] < true[1] * wider * 1.4
    assert config.ratio[0] == 1
    assert RATIO[1] < config.ratio[1] < 2
    assert (config.dark_share, config.noisy_share, config.counts_per_photon) == (0, 0, (1, 1))
    default = PatchSimulation()
    assert (config.eta, config.gaussian_share, config.outlier_share) == (
        default.eta,
        default.gaussian_share,
        default.outlier_share,
    )
    assert len(simulate_patches(500, rng=np.random.default_rng(0), config=config)) == 500


def test_ranges_are_in_photons_and_pixels_of_the_patch(run: Path, tmp_path: Path) -> None:
    plain = simulation_like(run)
    noise = {"counts_per_photon": 2.5, "read_noise": 5.0}
    binned = simulation_like(labelled_run(tmp_path, N_FRAMES, bin_size=2, frames=noise))
    assert binned.sigma == pytest.approx(plain.sigma, rel=0.15)
    for name in ("height", "background"):
        assert np.array(getattr(binned, name)) * 2.5 == pytest.approx(np.array(getattr(plain, name)), rel=0.4)
    assert (binned.noisy_share, binned.read_noise) == (1, WIDER_SHAPE * 5.0 * 2 / 2.5)


def stub(monkeypatch: pytest.MonkeyPatch, run: Path, table: peak_table.Table, **changed: Any) -> PatchSimulation:
    """`scenes_like` of another table and settings."""
    config = read_run_config(RunFolder(run))
    config = config.model_copy(update={"fit": config.fit.model_copy(update=changed)})
    monkeypatch.setattr(labels_module, "_read_table", lambda _: (table, np.arange(1)))
    monkeypatch.setattr(labels_module, "read_run_config", lambda _: config)
    return simulation_like(run)


def test_shares_are_those_of_the_flags(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = good_fits(1000)
    table["flags"][:300] = Flag.overlap
    table["flags"][300:400] = Flag.edge
    table["flags"][400:420] = Flag.masked
    table["flags"][420:430] = Flag.saturated
    table["background"][430:715] = -0.1
    config = stub(monkeypatch, run, table)
    assert (config.neighbour_share, config.missing_share) == (0.3, 0.12)
    assert config.saturated_share == LEAST_SHARE
    assert config.dark_share == 0.5


def test_a_pseudo_voigt_fit_tells_eta(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = good_fits(1000)
    table["eta"] = np.linspace(0.3, 0.6, 1000)
    table["eta"][::4] = 0
    config = stub(monkeypatch, run, table, model="pseudo_voigt")
    assert config.gaussian_share == 0.25
    assert 0 < config.eta[0] < 0.3
    assert 0.6 < config.eta[1] < 1


@pytest.mark.parametrize(
    ("sigma", "height", "background"), [(4.0, 500.0, 5.0), (1.0, 12.0, 400.0)], ids=["broad", "faint"]
)
def test_peaks_that_hide_each_other_do_not_keep_the_simulation_from_ending(
    run: Path, monkeypatch: pytest.MonkeyPatch, sigma: float, height: float, background: float
) -> None:
    table = good_fits(1000)
    table["fwhm_major"] = table["fwhm_minor"] = sigma * FWHM_PER_SIGMA
    table["amplitude"], table["background"], table["flags"][:400] = height, background, Flag.overlap
    config = stub(monkeypatch, run, table)
    assert len(simulate_patches(300, rng=np.random.default_rng(0), config=config)) == 300


def test_a_run_with_few_clean_fits_is_refused_saying_how_many(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = good_fits(150)
    table["flags"][:51] = Flag.overlap
    with pytest.raises(InputError, match=r"run: 99 of its 150 peaks are well fitted, .*; 100 are needed"):
        stub(monkeypatch, run, table)
