"""What a format holds comes back, whatever the peaks; each position is where its program's convention says."""

import json
from itertools import pairwise
from pathlib import Path

import h5py
import msgpack
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings

from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.exchange import CONVENTIONS, FORMATS, export_peaks, import_peaks, rows
from braggflow.exchange.dials import SAME_FLAGS
from braggflow.geometry import add_q
from tests.exchange.tables import FRAMES, filled, in_frames, tables
from tests.geometry.places import PLAIN

#: What each format holds of a row, beside `y`, `x` and `peak_frame`.
WHOLE = tuple(name for name in peak_table.VARIABLES if name not in ("peak_frame", "y", "x"))
HOLDS = {
    **dict.fromkeys(("csv", "parquet", "hdf5", "duckdb", "nexus"), WHOLE),
    "flt": (
        *("y_std", "x_std", "intensity", "intensity_std", "area", "birth", "y_pixel", "x_pixel", "snr", "flags"),
        "background",
    ),
    "refl": ("y_std", "x_std", "intensity", "intensity_std", "area", "background", "snr"),
    "stream": ("intensity",),
    "cxi": ("intensity", "snr"),
    "midas": ("intensity", "area", "birth", "amplitude", "background", "eta", "y_pixel", "x_pixel"),
    "hexrd": ("intensity", "birth"),
}
#: Of those that shift or scale positions.
CLOSE = {"nexus": 1e-13, "refl": 1e-13, "stream": 1e-13, "hexrd": 1e-11}
#: Formats that know all frames of the table, also those after the last peak.
KNOW_FRAMES = ("hdf5", "duckdb", "nexus", "stream", "cxi")
PIXEL = 200.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


def needs(kind: str) -> None:
    if CONVENTIONS[kind].package:
        pytest.importorskip(CONVENTIONS[kind].package)


def file_of(peaks: xr.Dataset, folder: Path, kind: str) -> Path:
    # HEXRD's millimetres are from the middle of a detector, whose size a table does not tell.
    path = folder / f"peaks{CONVENTIONS[kind].suffixes[0]}"
    return export_peaks(peaks.assign_attrs(shape=[200, 300]), path, overwrite=True, pixel_size=PIXEL)


def store() -> xr.Dataset:
    peaks = filled(0)
    frames = ("frame", "y", "x"), np.zeros((FRAMES, 200, 300), np.uint16)
    return xr.Dataset({"frames": frames}, {"frame": peaks["frame"], "omega": peaks["omega"]})


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(peaks=tables)
def test_what_a_format_holds_comes_back(kind: str, folder: Path, peaks: xr.Dataset) -> None:
    needs(kind)
    path = file_of(peaks, folder, kind)
    again = import_peaks(path, store(), pixel_size=PIXEL)
    if kind in KNOW_FRAMES:
        np.testing.assert_array_equal(import_peaks(path)["frame"], peaks["frame"])
    order = [np.lexsort([table[name].values for name in ("x", "y", "peak_frame")]) for table in (peaks, again)]
    ours, theirs = (table.isel(peak=at) for table, at in zip((peaks, again), order, strict=True))
    np.testing.assert_array_equal(theirs["peak_frame"].values, ours["peak_frame"].values)
    for name in ("y", "x"):
        np.testing.assert_allclose(theirs[name].values, ours[name].values, rtol=0, atol=300 * CLOSE.get(kind, 0))
    for name in HOLDS[kind]:
        rtol = 0 if name != "snr" or kind != "refl" else 1e-6
        np.testing.assert_allclose(
            theirs[name].values, ours[name].values, rtol=max(rtol, 1e-7 * (kind in CLOSE)), err_msg=name
        )
    for name in set(WHOLE) - {*HOLDS[kind], "y_pixel", "x_pixel", "flags"}:
        missing = np.full(len(theirs[name]), peak_table.VARIABLES[name].missing, theirs[name].dtype)
        np.testing.assert_array_equal(theirs[name].values, missing, err_msg=name)


@pytest.mark.parametrize("kind", ["refl", "nexus"])
def test_flags_that_the_format_has_come_back_alone(folder: Path, kind: str) -> None:
    peaks = filled(40)
    path = file_of(peaks, folder, kind)
    if kind == "nexus":  # as of another program
        with h5py.File(path, "a") as file:
            del file["entry/braggflow"]
    again = import_peaks(path)
    held = sum(int(flag) for flag in SAME_FLAGS)
    np.testing.assert_array_equal(np.sort(again["flags"].values), np.sort(peaks["flags"].values & held))


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
@pytest.mark.parametrize("kind", ["refl", "nexus", "stream", "cxi", "midas", "flt", "duckdb", "hexrd"])
def test_files_are_the_same_however_many_rows_are_held(
    tmp_path: Path, kind: str, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(kind)
    peaks = filled(23, 5)
    whole = import_peaks(file_of(peaks, tmp_path, kind), store(), pixel_size=PIXEL)
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr("braggflow.exchange.crystfel._FRAMES_AT_ONCE", 2)
    monkeypatch.setattr("braggflow.exchange.crystfel._PADDED_AT_ONCE", 12)
    again = import_peaks(file_of(peaks, tmp_path, kind), store(), pixel_size=PIXEL)
    xr.testing.assert_equal(again.drop_attrs(), whole.drop_attrs())


def one(tmp_path: Path, kind: str) -> Path:
    """The middle of the pixel in row 5 and column 9 of frame 3."""
    table = peak_table.empty(1)
    table["peak_frame"], table["y"], table["x"], table["intensity"] = 3, 5.0, 9.0, 100.0
    return file_of(in_frames(table), tmp_path, kind)


def test_each_program_finds_the_middle_of_a_pixel_where_it_has_it(tmp_path: Path) -> None:
    _, _, content = msgpack.unpackb(one(tmp_path, "refl").read_bytes(), strict_map_key=False)
    kind, (n, values) = content["data"]["xyzobs.px.value"]
    assert (kind, n, np.frombuffer(values).tolist()) == ("vec3<double>", 1, [9.5, 5.5, 3.5])
    assert np.frombuffer(content["data"]["bbox"][1][1], np.int32).tolist() == [7, 12, 3, 8, 3, 4]

    with h5py.File(one(tmp_path, "nexus")) as file:
        group = file["entry/reflections"]
        found = [float(group[f"observed_{name}"][0]) for name in ("px_x", "px_y", "frame", "phi")]
        assert found == [9.5, 5.5, 3.5, 0.5]

    lines = one(tmp_path, "flt").read_text().splitlines()
    found = dict(zip(lines[1][1:].split(), map(float, lines[2].split()), strict=True))
    assert [found[name] for name in ("s_raw", "f_raw", "sc", "fc", "frame", "omega")] == [5, 9, 5, 9, 3, 0.5]

    lines = one(tmp_path, "stream").read_text().splitlines()
    assert "9.5 5.5 nan 100.0 p0" in lines
    assert lines[: lines.index("9.5 5.5 nan 100.0 p0")].count("----- Begin chunk -----") == 4
    assert [line for line in lines if line.startswith("Event")][3] == "Event: //3"

    with h5py.File(one(tmp_path, "cxi")) as file:
        result = file["entry_1/result_1"]
        assert result["nPeaks"][:].tolist() == [0, 0, 0, 1, 0, 0, 0]
        assert [float(result[f"peak{name}"][3, 0]) for name in ("XPosRaw", "YPosRaw", "TotalIntensity")] == [9, 5, 100]

    content = one(tmp_path, "midas").read_bytes()
    counts = np.frombuffer(content, np.int32, 8)
    place = int(np.frombuffer(content, np.int64, 7, 32)[3])
    row = np.frombuffer(content, np.float64, 29, place)
    assert counts.tolist() == [7, 0, 0, 0, 1, 0, 0, 0]
    assert row[:5].tolist() == [1, 100, 0.5, 9, 5]

    # The middle of 200 x 300 pixels is (99.5, 149.5); X to the right, Y upwards.
    values = one(tmp_path, "hexrd").read_text().splitlines()[1].split()
    assert [float(value) for value in values[-2:]] == pytest.approx([(9 - 149.5) * 0.2, (99.5 - 5) * 0.2])
    assert float(values[12]) == pytest.approx(np.radians(0.5))


def test_the_page_has_the_table_of_conventions_that_the_code_follows() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exchange.md").read_text(encoding="utf-8")
    for kind, convention in CONVENTIONS.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{kind}` | ."))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:6] == [
            ", ".join(convention.suffixes),
            f"`{convention.y}`, `{convention.x}`",
            f"{convention.middle:g}",
            f"`{convention.frame}`",
            f"{convention.frame_middle:g}",
        ]
    suffixes = [suffix for convention in CONVENTIONS.values() for suffix in convention.suffixes]
    assert len(suffixes) == len({*suffixes})


def test_a_run_without_peaks_makes_a_list_without_peaks(tmp_path: Path) -> None:
    for kind in FORMATS:
        if kind != "duckdb" or pytest.importorskip("duckdb"):
            again = import_peaks(file_of(filled(0), tmp_path, kind), store(), pixel_size=PIXEL)
            assert (again.sizes["peak"], again.sizes["frame"]) == (0, FRAMES)


def text(tmp_path: Path, name: str, lines: str) -> Path:
    path = tmp_path / name
    path.write_text(lines)
    return path


GOOD_STREAM = "CrystFEL stream format 2.3\n----- Begin chunk -----\nEvent: //2\nPeaks from peak search\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"a\.txt: its suffix names no format; must be one of \.csv, .* or add --from csv"),
        ("a.csv", "peak_frame,y,x\n0,1,2\n1,two,3\n", r"a\.csv: line 3: y is 'two', must be a number"),
        ("a.csv", "peak_frame,y,x\n0,1,2\n1,,3\n", r"a\.csv: line 3: y is nan, must be a number"),
        ("a.csv", "peak_frame,y,x\n0.5,1,2\n", r"a\.csv: line 2: the frame is 0\.5, must be a whole number"),
        ("a.csv", "peak_frame,y,x,flags\n0,1,2,70000\n", r"line 2: flags is 70000\.0, must be 0 to 65535"),
        ("a.csv", "peak_frame,y\n0,1\n", r"a\.csv: has no column for x"),
        ("a.csv", "y,x\n0,1\n", r"a\.csv: has no column for the frame"),
        (
            "a.csv",
            "peak_frame,y,x\n0,1,2\n9,1,2\n",
            r"line 3: lies in frame 9, which the frames do not have; .* 0 to 6",
        ),
        ("a.flt", "1 2 3\n", r"a\.flt: has no line of names"),
        ("a.flt", "#  sc  fc  frame\n1 2 0\n1 2\n", r"a\.flt: line 3 has 2 values, its columns are 3|line 3: .*nan"),
        ("a.flt", "#  gx  gy\n1 2\n", r"a\.flt: has no columns s_raw and f_raw, or sc and fc; its columns: gx, gy"),
        ("a.flt", "#  sc  fc\n1 2\n", r"a\.flt: has no column for the frame"),
        ("a.stream", "hello\n", r"a\.stream: does not begin with 'CrystFEL stream format 2\.3'"),
        ("a.stream", GOOD_STREAM + "  fs/px\n1 2 3 four p0\n", r"line 6: '1 2 3 four p0' is no peak"),
        ("a.stream", GOOD_STREAM + "  fs/px\n1 2 3 4 p0\n", r"a\.stream: ends within a list of peaks"),
        ("a.stream", GOOD_STREAM.replace("//2", "//x"), r"line 3: Event is 'x', must end in the number of a frame"),
        ("a.refl", "nonsense", r"a\.refl: cannot be read as a reflection table of DIALS"),
        ("a.bin", "xx", r"a\.bin: cannot be read as AllPeaks_PS\.bin of MIDAS"),
        ("a.nxs", "xx", r"a\.nxs: cannot be read as nexus"),
        ("a.cxi", "xx", r"a\.cxi: cannot be read as cxi"),
        ("a.out", "# ID PID\n", r"a\.out: needs the shape of the frames|has no column meas X"),
    ],
)
def test_a_list_that_cannot_be_read_is_told_with_line_and_value(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        import_peaks(text(tmp_path, name, content), store(), pixel_size=PIXEL)


def test_columns_that_the_table_has_no_place_for_are_named(tmp_path: Path) -> None:
    path = text(tmp_path, "a.csv", "# grain,h,frame,row_px,col_px,sum_int\n1,2,3,4.25,5.5,600\n")
    peaks = import_peaks(path)
    assert peaks.attrs["not_read"] == ["grain", "h"]
    assert [float(peaks[name][0]) for name in ("peak_frame", "y", "x", "intensity")] == [3, 4.25, 5.5, 600]
    assert [int(peaks[name][0]) for name in ("y_pixel", "x_pixel")] == [4, 6]


def test_angles_of_another_turn_find_their_frame_and_those_beyond_are_refused(tmp_path: Path) -> None:
    peaks = filled(6)
    path = file_of(peaks, tmp_path, "hexrd")
    turned = store().assign_coords(omega=("frame", store()["omega"].values + 360))
    np.testing.assert_array_equal(import_peaks(path, turned, pixel_size=PIXEL)["peak_frame"], peaks["peak_frame"])
    with pytest.raises(InputError, match=r"row \d: omega is .*, the frames' are 99 to 102"):
        import_peaks(path, store().assign_coords(omega=store()["omega"] + 100), pixel_size=PIXEL)
    with pytest.raises(InputError, match="needs --frames STORE, whose frames have the coordinate omega"):
        import_peaks(path, store().drop_vars("omega"), pixel_size=PIXEL)
    with pytest.raises(InputError, match="needs the pitch of the pixels, which nothing states"):
        import_peaks(path, store())


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    peaks = filled(3)
    with pytest.raises(InputError, match="--to hexrd: needs the pitch of the pixels"):
        export_peaks(peaks.assign_attrs(shape=[200, 300]), tmp_path / "a.out")
    with pytest.raises(InputError, match="--to hexrd: the table has no omega"):
        export_peaks(peaks.drop_vars("omega").assign_attrs(shape=[9, 9]), tmp_path / "a.out", pixel_size=PIXEL)
    with pytest.raises(InputError, match="--to midas: frame -2 is below 0"):
        export_peaks(peaks.assign_coords(frame=peaks["frame"] - 2), tmp_path / "a.bin")
    with pytest.raises(InputError, match="--pixel-size 0: must be above 0"):
        export_peaks(peaks, tmp_path / "a.out", pixel_size=0)
    assert list(tmp_path.iterdir()) == []


def test_a_cxi_list_of_another_program_is_found_by_its_names(tmp_path: Path) -> None:
    path = tmp_path / "cheetah.cxi"
    with h5py.File(path, "w") as file:
        for name, values in (("nPeaks", [1, 2]), ("peakXPosRaw", [[4, 0, 0], [5, 6, 0]])):
            file[f"entry_1/result_1/{name}"] = np.array(values, np.float32)
        file["entry_1/result_1/peakYPosRaw"] = np.array([[1, 0, 0], [2, 3, 0]], np.float32)
    peaks = import_peaks(path)
    assert peaks["x"].values.tolist() == [4, 5, 6]
    assert peaks["peak_frame"].values.tolist() == [0, 1, 1]
    assert all(one <= other for one, other in pairwise(peaks["peak_frame"].values))


def test_tracks_and_q_stand_where_a_format_has_a_place_for_them(tmp_path: Path) -> None:
    track = np.random.default_rng(1).integers(-1, 5, 30).astype(np.int32)
    peaks = filled(30).assign(track_id=("peak", track)).assign_attrs(geometry=json.dumps(PLAIN))
    expected = add_q(peaks)
    for suffix in (".flt", ".nxs", ".stream"):
        export_peaks(peaks, tmp_path / f"peaks{suffix}", derived=add_q)
    names, *rows = (line.split() for line in (tmp_path / "peaks.flt").read_text().splitlines() if "=" not in line)
    columns = dict(zip(names[1:], np.array(rows, np.float64).T, strict=True))
    np.testing.assert_array_equal(columns["track_id"], track)
    np.testing.assert_allclose(2 * np.pi * columns["ds"], expected["q"], rtol=1e-12)
    np.testing.assert_allclose(columns["tth"], expected["two_theta"], rtol=1e-12)
    with h5py.File(tmp_path / "peaks.nxs") as file:
        np.testing.assert_array_equal(file["entry/braggflow/track_id"], track)
        np.testing.assert_array_equal(file["entry/braggflow/q"], expected["q"])
        np.testing.assert_array_equal(file["entry/reflections/d"], expected["d"])
    listed = [line.split() for line in (tmp_path / "peaks.stream").read_text().splitlines() if line.endswith(" p0")]
    np.testing.assert_allclose([float(line[2]) for line in listed], 10 / expected["d"], rtol=1e-12)
