"""What a visitor of the page does, in a real browser; what the page then says is what `run` finds."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import braggflow
from braggflow.frames import create_store, finish_store
from braggflow.show import Trails
from braggflow.simulate import simulate_series
from tests.stores import make_store, spots

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see make test-browser")

from tests.view.browser import CHROMIUM, Browser, Served, browser, served  # noqa: E402 - after the import that may lack

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]

#: Where pictures of pages are left, to be looked at.
PICTURES = Path(os.environ.get("BRAGGFLOW_PICTURES", "build/pictures"))
#: What is tried, one after the other: the name of a control, and its new value.
TRIED: list[tuple[str, Any]] = [
    ("false_peaks", 1.0),
    ("false_peaks", -3.0),
    ("minval", 150.0),
    ("minscore", 25.0),
    ("unit", "sigma"),
    ("minval", 8.0),
    ("minscore", 6.0),
    ("background", "none"),
    ("background", "local"),
    ("background_cell", 16),
    ("min_area", 3),
    ("max_area", 60),
    ("min_edge_distance", 30),
    ("min_neighbour_distance", 9.0),
    ("min_snr", 8.0),
    ("bin", "2"),
    ("min_snr", 0.0),
    ("bin", "1"),
    ("no_false_peaks", True),
    ("minscore", None),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    simulate_series(folder / "scan.zarr", n_frames=60, shape=(256, 320), peaks=12)
    return folder / "scan.zarr"


@pytest.fixture(scope="module")
def page(store: Path) -> Iterator[Served]:
    with served(store, "--frame", 7, folder=store.parent) as found:
        yield found


@pytest.fixture
def tab(page: Served) -> Iterator[Browser]:
    with browser() as found:
        found.open(page.url)
        yield found
        assert found.said == []


def found_by_run(config: Path, store: Path, number: int) -> int:
    settings = braggflow.load_config(config, [f"frames.start={number}", f"frames.stop={number + 1}"])
    return int(braggflow.find_peaks(braggflow.open_frames(store), config=settings).sizes["peak"])


def test_each_control_shows_what_a_run_with_the_saved_settings_finds(tab: Browser, store: Path) -> None:
    tab.tab.get_by_text("tune", exact=True).click()
    counts = []
    for at, (name, value) in enumerate(TRIED):
        tab.set(name, value, "active" if name == "no_false_peaks" else "value")
        tab.type("config_name", f"tried_{at}")
        tab.click("save_config")
        saved = store.parent / f"tried_{at}.yaml"
        assert str(saved) in tab.wait_for_text("told", "written: ")
        assert tab.count == found_by_run(saved, store, 7), (name, value)
        counts.append(tab.count)
    assert len(set(counts)) > 5
    assert "peaks in 20 frames of the series" in tab.wait_for_text("sampled", "peaks in")


def test_controls_can_be_moved_by_hand(tab: Browser, store: Path) -> None:
    tab.tab.get_by_text("tune", exact=True).click()
    before = tab.count
    tab.type("minval", "60")
    tab.choose("background", "none")
    assert tab.count < before
    assert f"{tab.count:,} peaks" in tab.wait_for_text("changed", "gone")
    tab.element("no_false_peaks").query_selector("input").check()
    tab.settle()
    tab.type("config_name", "by_hand")
    tab.click("save_config")
    tab.wait_for_text("told", "written: ")
    saved = yaml.safe_load((store.parent / "by_hand.yaml").read_text())
    assert saved == {"detect": {"false_peaks": None, "minval": 60.0, "background": "none"}}
    tab.click("save_config")
    tab.wait_for_text("told", "is there already")
    tab.click("back_to_first")
    assert tab.count == before


def test_a_run_is_started_and_its_end_is_told(tab: Browser, store: Path) -> None:
    tab.tab.get_by_text("tune", exact=True).click()
    tab.type("minval", "50")
    shown = tab.count
    tab.type("config_name", "to_run")
    tab.click("run")
    tab.wait_for_text("told", "run ended with status 0")
    run = braggflow.open_run(store.parent / "to_run" / "scan")
    assert int(run.peaks["peak_count"].sel(frame=7)) == shown


def test_frames_are_stepped_through_and_played(tab: Browser) -> None:
    assert "frame 7 " in tab.value("head", "text")
    tab.click("on")
    assert "frame 8 " in tab.value("head", "text")
    tab.click("back")
    assert "frame 7 " in tab.value("head", "text")
    tab.set("frame", 3)
    assert "frame 3 (" in tab.value("head", "text")
    assert "time" in tab.value("head", "text")
    tab.type("go_to", "20")
    assert "frame 20 (" in tab.value("head", "text")
    tab.type("go_to", "nowhere 20")
    tab.wait_for_text("told", "there are: ")
    tab.set("frame", 3)
    tab.element("play").query_selector("button").click()
    tab.wait_for_text("head", "frame 53 ")
    tab.element("play").query_selector("button").click()
    tab.settle()
    stopped = tab.value("head", "text")
    tab.tab.wait_for_timeout(600)
    assert tab.value("head", "text") == stopped


def test_every_image_contrast_and_map_is_painted(tab: Browser) -> None:
    def picture() -> bytes:
        return tab.element("figure").screenshot()

    tab.set("markers", False, "active")
    seen = {picture()}
    images = [value for value, _ in tab.value("image", "options")]
    assert images == ["counts", "above", "background", "foreground", "maximum", "mean", "median", "variance"]
    for image in images[1:]:
        tab.choose("image", image)
        if image in ("maximum", "mean", "median", "variance"):
            tab.wait_for_text("told", "frames, spread evenly")
        tab.settle()
        tab.tab.wait_for_timeout(100)
        seen.add(picture())
    assert len(seen) == len(images)
    tab.choose("image", "counts")
    for scale in ("log", "linear"):
        tab.choose("scale", scale)
        tab.tab.wait_for_timeout(100)
        seen.add(picture())
    for colours in ("black to white", "cividis", "viridis", "inferno", "magma"):
        tab.choose("colours", colours)
        tab.tab.wait_for_timeout(100)
        seen.add(picture())
    assert len(seen) == len(images) + 7


def test_masks_are_drawn_undone_saved_and_loaded_again(tab: Browser, store: Path) -> None:
    tab.tab.get_by_text("mask", exact=True).click()

    def ignored() -> int:
        text = str(tab.value("mask_size", "text"))
        return 0 if text == "nothing drawn" else int(text.split(", ")[1].split(" ")[0].replace(",", ""))

    sizes = []
    for shape, places in (
        ("rectangle", [(20, 20), (60, 90)]),
        ("ellipse", [(80, 30), (120, 110)]),
        ("ring", [(130, 150), (230, 250)]),
        ("brush", [(10, 150), (30, 200), (15, 250)]),
    ):
        tab.choose("shape", shape)
        tab.drag(*places)
        sizes.append(ignored())
    assert sizes == sorted(set(sizes))
    assert sizes[0] == pytest.approx(41 * 71, rel=0.1)
    tab.choose("shape", "polygon")
    for place in [(150, 20), (220, 30), (200, 100)]:
        tab.click_at(*place)
    tab.tab.keyboard.press("Enter")
    tab.settle()
    assert ignored() > sizes[-1]
    sizes.append(ignored())
    tab.choose("shape", "pixel")
    tab.click_at(100, 280)
    assert ignored() == sizes[-1] + 1
    tab.click("undo")
    assert ignored() == sizes[-1]
    tab.click("redo")
    assert ignored() == sizes[-1] + 1
    tab.type("above", "400")
    tab.click("threshold")
    drawn = ignored()
    assert drawn > sizes[-1] + 1
    tab.type("mask_name", "drawn")
    tab.click("save_mask")
    assert str(store.parent / "drawn.tif") in tab.wait_for_text("told", "written: ")
    saved = braggflow.load_mask(store.parent / "drawn.tif")
    assert int(saved.array.sum()) == drawn
    assert [shape.kind for shape in saved.shapes][:6] == ["rectangle", "ellipse", "ring", "brush", "polygon", "pixel"]
    tab.click("clear")
    assert ignored() == 0
    tab.click("load_mask")
    tab.wait_for_text("told", "drawn by ")
    assert ignored() == drawn
    found = braggflow.find_peaks(
        braggflow.open_frames(store).isel(frame=[7]), config={"frames": {"mask": str(store.parent / "drawn.tif")}}
    )
    assert not saved.array[found["y_pixel"].values, found["x_pixel"].values].any()


def test_a_peak_and_an_empty_place_are_explained(tab: Browser, store: Path) -> None:
    peaks = braggflow.find_peaks(braggflow.open_frames(store).isel(frame=[7]))
    strongest = int(np.argmax(peaks["snr"].values))
    y, x = (float(peaks[name].values[strongest]) for name in ("y", "x"))
    tab.click_at(y, x)
    tab.wait_for_text("explained", f"{y:.2f}"[:-1])
    tab.wait_for_text("explained_picture", "<img ")
    assert tab.value("panels", "active") == 3
    PICTURES.mkdir(parents=True, exist_ok=True)
    tab.tab.wait_for_timeout(300)
    tab.tab.screenshot(path=PICTURES / "explain.png")
    places = np.column_stack([peaks["y"].values, peaks["x"].values])
    grid = np.stack(np.meshgrid(np.arange(20, 236, 4), np.arange(20, 300, 4), indexing="ij"), -1).reshape(-1, 2)
    empty = grid[np.argmax(np.linalg.norm(grid[:, None] - places, axis=2).min(axis=1))]
    tab.click_at(*map(float, empty))
    tab.wait_for_text("explained", "cut|nothing|no maximum|ignored|below")


def test_the_window_is_zoomed_and_its_pixels_are_told(tab: Browser, store: Path) -> None:
    raw = braggflow.open_frames(store)["frames"].sel(frame=7).values
    across, down = tab.place(100, 150)
    tab.tab.mouse.move(across, down)
    for _ in range(6):
        tab.tab.mouse.wheel(0, -240)
        tab.settle()
        tab.tab.mouse.move(across, down)
    tab.wait_for_text("counted", "in the window")
    told = tab.told_at(101, 152)
    assert told.startswith(f"y 101, x 152: {raw[101, 152]} counts")
    tab.click("whole")
    assert "in the window" not in tab.value("counted", "text")


def test_of_many_peaks_the_maxima_are_shown_while_they_are_located(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    height = np.zeros((80, 12, 80, 12))
    height[:, 2:5, :, 2:5] = np.exp(-(np.hypot(*np.mgrid[-1:2, -1:2])[:, None] ** 2) / 2)
    bright = rng.uniform(80, 400, (2, 80, 1, 80, 1))
    images = rng.poisson(4 + bright * height).reshape(2, 960, 960).astype(np.uint16)
    store = make_store(tmp_path / "crowded.zarr", images)
    with served(store, "--frame", 0, folder=tmp_path) as page, browser() as tab:
        tab.open(page.url)
        tab.wait_for_text("counted", "highest SNR")
        tab.tab.evaluate(
            """() => {
              window.said = []
              const counted = Bokeh.documents[0].get_model_by_name('counted')
              counted.properties.text.change.connect(() => window.said.push(counted.text))
            }"""
        )
        tab.set("frame", 1)
        tab.wait_for_text("counted", "highest SNR")
        n = braggflow.find_peaks(images[1]).sizes["peak"]
        assert n > 5_000
        assert tab.tab.evaluate("window.said")[-2:] == [
            f"{n:,} peaks, 5,000 in the window (those of the highest persistence); being located …",
            f"{n:,} peaks, 5,000 in the window (those of the highest SNR)",
        ]
        listed, row = tab.tab.evaluate(
            """() => {
              const table = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('peaks'))
              return [table.model.source.data.y[0], table.shadow_el.querySelector('.slick-row').innerText]
            }"""
        )
        assert row.split()[0] == f"{listed:.2f}"
        assert listed % 1
        assert tab.said == []


def test_words_of_the_frames_are_text_and_never_run(tmp_path: Path) -> None:
    hostile, worse = "<i>omega", "<img src=x onerror=alert(1)>"
    images = np.stack([spots((60, 80), 4, seed=seed) for seed in range(3)])
    path = tmp_path / "a<b>&.zarr"
    store = create_store(
        path,
        n_frames=3,
        shape=(60, 80),
        dtype=images.dtype,
        coords={hostile: (np.arange(3.0), {"units": worse})},
        images={},
    )
    store[:] = images
    finish_store(path)
    with served(path, folder=tmp_path) as page, browser() as tab:
        dialogs = []
        tab.tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        tab.open(page.url)
        tab.settle()
        text = tab.element("head").evaluate("element => element.shadowRoot.textContent")
        assert hostile in text
        assert worse in text
        assert dialogs == []
        assert tab.said == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (2560, 1440)], ids=str)
def test_pages_of_real_frames_open_without_a_complaint(
    size: tuple[int, int], dark: bool, real_data: Path, tmp_path: Path
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    sources = {path.name: path for path in sorted(real_data.iterdir()) if path.is_dir() and any(path.rglob("*"))}
    opened = 0
    for name, folder in sources.items():
        first = next(
            (path for path in sorted(folder.rglob("*")) if path.suffix in (".cbf", ".img", ".h5", ".edf")), None
        )
        if first is None:
            continue
        options = ["--dark"] if dark else []
        with served(first, *options, folder=tmp_path) as page, browser(width=size[0], height=size[1]) as tab:
            tab.open(page.url)
            tab.settle()
            assert tab.count >= 0
            tab.tab.screenshot(path=PICTURES / f"{name}_{size[0]}_{'dark' if dark else 'light'}.png")
            assert tab.said == []
        opened += 1
    assert opened >= 3


def test_a_click_on_a_peak_shows_its_track_and_a_click_on_its_course_the_frame(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("followed")
    frames = np.stack([np.roll(spots((96, 128), 6, seed=3), at, axis=1) for at in range(8)])
    settings: dict[str, Any] = {"output": {"report": False}, "check": {"fraction": 0}, "locate": {"network": "none"}}
    braggflow.run(settings, [make_store(folder / "scan.zarr", frames)], out=folder / "runs")
    peaks = braggflow.open_peaks(folder / "runs" / "scan")
    one = peaks.sel(peak_frame=5).isel(peak=2)
    track = braggflow.open_tracks(folder / "runs" / "scan").isel(track=int(one["track_id"]))
    with served(folder / "runs" / "scan", "--frame", 5, folder=folder) as page, browser() as tab:
        tab.open(page.url)
        tab.tab.get_by_text("look", exact=True).click()
        assert len(tab.tab.evaluate("() => Bokeh.documents[0].get_model_by_name('trails').data.x0")) == 0
        tab.set("show_trails", True, "active")
        steps = tab.tab.evaluate("() => Bokeh.documents[0].get_model_by_name('trails').data.x0.length")
        window = (
            "() => { const {x_range: x} = Bokeh.documents[0].get_model_by_name('figure'); return [x.start, x.end] }"
        )
        left, right = tab.tab.evaluate(window)
        ends = Trails(peaks).before(5, 15).places[:, 1, 1]
        assert steps == np.count_nonzero((ends >= left) & (ends <= right)) > 0
        tab.tab.get_by_text("track", exact=True).click()
        tab.click_at(float(one["y"]), float(one["x"]))
        first, last = int(track["first"]), int(track["last"])
        tab.wait_for_text("track_words", f"track {int(one['track_id'])}: .* peaks in frames {first} to {last}")
        PICTURES.mkdir(parents=True, exist_ok=True)
        tab.tab.screenshot(path=PICTURES / "track.png")
        box = tab.element("track_x").bounding_box()
        tab.tab.mouse.click(box["x"] + box["width"] - 14, box["y"] + box["height"] / 2)
        tab.settle()
        assert tab.value("frame") == last != 5
        assert tab.said == []
