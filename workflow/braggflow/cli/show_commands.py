"""What is seen of frames and runs: `view`, `report`, `movie`, `track`; other programs; are they whole: `verify`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.options import ListFormat, Overwrite, PixelSize
from braggflow.cli.streams import say
from braggflow.errors import InputError, printable


def view(
    source: Annotated[str, typer.Argument(help="A run folder, a frames store, or a detector file (FILE.h5:/path).")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration that is begun with, YAML (a run brings its own).")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(help="Number of the frame shown first (default: the middle one).")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where configurations and masks saved on the page go.")] = Path(),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine (0: one that is free).")] = 0,
    dark: Annotated[bool, typer.Option("--dark", help="A dark page.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser of this machine.")] = True,
) -> None:
    """Look at frames and peaks on a page: tune settings, draw masks, ask why there is a peak. Until Ctrl-C."""
    from braggflow.console import saying

    with saying("opening"):
        from braggflow.view import serve_page

        server = serve_page(source, config, frame=frame, folder=folder, port=port, dark=dark)

    def started() -> None:
        from braggflow.view import open_in_browser

        say(f"{server.url}\nThe address lets in whoever knows it. Ctrl-C ends.")
        if browser:
            open_in_browser(server.url)

    with suppress(KeyboardInterrupt):  # which is how it ends
        server.run(started)


def report(
    runs: Annotated[list[Path], typer.Argument(help="A run folder; or several, or a folder of them: one page on all.")],
    frame: Annotated[
        list[int] | None, typer.Option(help="Number of a frame to show, in place of a typical one; repeat for more.")
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(help="Coordinate that the series is drawn against (frame: numbers); by default omega, time, ..."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the page on several runs (default: batch.html in their folder).")
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="CSV or HDF5 log (voltage, temperature, ...) drawn along the series too.")
    ] = None,
    log_time: Annotated[str, typer.Option(help="The log's column of time.")] = "time",
    tolerance: Annotated[str, typer.Option(help="How far a row of the log may be from a frame.")] = "1 s",
    start: Annotated[
        str | None, typer.Option(help="Moment at which that clock is 0 which counts, where the other has dates.")
    ] = None,
) -> None:
    """Write report.html of a run again; of several runs batch.html, one page with a row for each."""
    from braggflow.console import saying
    from braggflow.errors import InputError
    from braggflow.results import RunFolder, join_log, open_run

    several = len(runs) > 1 or not RunFolder(runs[0]).info.exists()
    of_one = [name for name, value in (("--frame", frame), ("--axis", axis), ("--log", log)) if value]
    if several and of_one:
        given = ", ".join(map(str, runs[:3])) + ", ..." * (len(runs) > 3)
        raise InputError(f"{of_one[0]}: goes with one run folder; given: {given}")
    if out is not None and not several:
        raise InputError(f"--out {out}: is of the page on several runs; the report of one is report.html in its folder")
    with saying("making the report"):
        from braggflow.show import write_batch_report, write_report

        if several:
            path = write_batch_report(runs, out)
        else:
            run = open_run(runs[0])
            joined = join_log(run, log, time=log_time, tolerance=tolerance, start=start) if log is not None else None
            path = write_report(runs[0], frames=frame or [], axis=axis, peaks=joined)
    say(path)


def explain(
    source: Annotated[str, typer.Argument(help="A run folder; or a frames store, file, folder or pattern.")],
    at: Annotated[str, typer.Option(metavar="Y,X", help="The place, pixels of the detector: 512.3,840.")],
    frame: Annotated[int | None, typer.Option(help="Number of the frame (default: the middle one).")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration, YAML (default: every key at its default); not for a run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Picture to write, .png, .svg or .pdf.")] = None,
) -> None:
    """Tell why there is a peak at a place, or none: what each stage saw there and decided."""
    from braggflow.cli.terminal import write_picture
    from braggflow.console import moving_line, open_console

    y, x = _place(at)
    with moving_line(open_console(stderr=True), "loading") as line:
        line("loading", None, "")
        from braggflow.compiled import compiling_told
        from braggflow.explain import explain

        with compiling_told(line) as line_too:
            line_too(f"looking at {source}", None, "")
            why = explain(source, y, x, frame=frame, config=config)
        picture = write_picture(why, out) if out is not None else None
    for sentence in why.words:
        say(printable(sentence))
    if picture is not None:
        say(f"picture: {printable(str(picture))}")


def _place(text: str) -> tuple[float, float]:
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--at {text}: must be two numbers, Y,X: 512.3,840") from None
    return y, x


def movie(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write, .gif or .mp4 (default: movie.gif in the run).")
    ] = None,
    fps: Annotated[int, typer.Option(min=1, max=60, help="Frames per second.")] = 12,
    start: Annotated[int | None, typer.Option(help="First frame number.")] = None,
    stop: Annotated[int | None, typer.Option(help="Last frame number.")] = None,
    step: Annotated[int, typer.Option(min=1, help="Every step-th frame.")] = 1,
    max_frames: Annotated[int, typer.Option(min=1, help="Thin longer series to this many.")] = 200,
    trails: Annotated[int, typer.Option(min=0, help="Show where the peaks of so many frames before were.")] = 0,
    crop: Annotated[
        str | None,
        typer.Option(help="Part of the frames that is shown, in pixels: y0:y1,x0:x1.", metavar="ROWS,COLUMNS"),
    ] = None,
    contrast: Annotated[
        str, typer.Option(help="auto (linear near the background, logarithmic above), linear, log, or LOW:HIGH counts.")
    ] = "auto",
) -> None:
    """Animate the frames with their located peaks."""
    from braggflow.console import saying

    with saying("drawing the movie"):
        from braggflow.show import write_movie

        path = write_movie(
            run,
            out,
            fps=fps,
            frames=slice(start, stop, step),
            max_frames=max_frames,
            trails=trails,
            crop=_crop(crop),
            contrast=contrast,
        )
    say(path)


def _crop(text: str | None) -> tuple[slice, slice] | None:
    """Rows and columns of `y0:y1,x0:x1`; ends that are left out are those of the frame."""
    from braggflow.errors import InputError

    if text is None:
        return None
    try:
        rows, columns = (
            slice(*(int(end) if end.strip() else None for end in (first, stop)))
            for first, stop in (part.split(":") for part in text.split(","))
        )
    except ValueError:
        raise InputError(f"--crop {text}: must be y0:y1,x0:x1, whole numbers of pixels") from None
    return rows, columns


def track(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    settings: Annotated[
        list[str], typer.Option("--set", help="Change a key of the section track: max_gap=2; repeat.")
    ] = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw all tracks to this .png, .pdf or .svg too.")] = None,
) -> None:
    """Follow the peaks through the series: tracks with uncertainties, splits, merges, drift; reflections of a scan."""
    from json import dumps

    from braggflow.cli.options import name_and_value
    from braggflow.console import saying
    from braggflow.yaml_text import parse_yaml

    given = dict(name_and_value(text.removeprefix("track."), "--set") for text in settings)
    if plot is not None and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"--plot {plot}: must end with .png, .pdf or .svg")
    with saying("following the peaks"):
        from braggflow.tracks import said_of_tracks, track

        tracks = track(run, **{key: parse_yaml(value, f"--set {key}") for key, value in given.items()})
        said = said_of_tracks(tracks)
        if plot is not None:
            from braggflow.show import plot_tracks

            plot_tracks(run).savefig(plot, dpi=150)
    say(dumps(said, indent=1) if json else "\n".join(f"{name}: {value}" for name, value in said.items()))


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="csv, parquet, hdf5, duckdb, nexus, flt (ImageD11), refl (DIALS), stream or cxi (CrystFEL), midas, "
            "hexrd (default: by the suffix of --out).",
            metavar="FORMAT",
        ),
    ] = None,
    q: Annotated[
        bool, typer.Option("--q", help="Add two_theta, azimuth, q, d, widths, strain of tracks, and uncertainties.")
    ] = False,
    geometry: Annotated[
        Path | None, typer.Option(help="PONI file for --q (default: the geometry that the run knows).")
    ] = None,
    pixel_size: PixelSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the peaks to a file for other programs, in their names and conventions. One row a peak."""
    from braggflow.cli.terminal import progress_bar
    from braggflow.exchange import export_peaks
    from braggflow.tracks import q_and_strain

    derived = q_and_strain(run, geometry) if q or geometry is not None else None
    with progress_bar("export", unit="rows") as advance:
        path = export_peaks(
            run, out, to=to, overwrite=overwrite, pixel_size=pixel_size, derived=derived, progress=advance
        )
    say(path)


def import_list(
    source: Annotated[Path, typer.Argument(help="A list of peaks of another program.")],
    out: Annotated[Path, typer.Option(help="Peak table to make, NAME.zarr, or a folder for it.")],
    frames: Annotated[
        str | None,
        typer.Option(help="Frames of the list: how many, or a frames store or run (default: those that it names)."),
    ] = None,
    kind: ListFormat = None,
    pixel_size: PixelSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Read a list of peaks of another program into a peak table, for compare and open_peaks."""
    from braggflow.console import saying

    with saying(f"reading {source}"):
        from braggflow.exchange import import_peaks, write_imported

        known = int(frames) if frames is not None and frames.isdecimal() else frames
        peaks = import_peaks(source, known, kind=kind, pixel_size=pixel_size)
        path = write_imported(peaks, out, overwrite=overwrite)
    say(f"{path}: {peaks.sizes['peak']:,} peaks in {peaks.sizes['frame']:,} frames")
    if peaks.attrs["not_read"]:
        say(printable(f"not read, as the table has no place for them: {', '.join(peaks.attrs['not_read'])}"))


def compare(
    run: Annotated[Path, typer.Argument(help="A run folder, or a peak table.")],
    other: Annotated[Path, typer.Argument(help="Another one, or a list of another program.")],
    radius: Annotated[float, typer.Option(help="Pixels; peaks further apart are two.")] = 2.0,
    frames_apart: Annotated[
        int, typer.Option(min=0, help="A peak without a partner in its frame may have one so many frames away.")
    ] = 0,
    kind: ListFormat = None,
    pixel_size: PixelSize = None,
    out: Annotated[Path | None, typer.Option(help="Picture to write, .png, .svg or .pdf.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two runs, or a run and a list: peaks of both and of one only, offsets, and settings that differ."""
    from braggflow.cli.terminal import save_figure, show_comparison
    from braggflow.console import saying

    with saying("comparing"):
        from braggflow.exchange import compare

        found = compare(run, other, radius=radius, frames_apart=frames_apart, kind=kind, pixel_size=pixel_size)
        picture = save_figure(found.figure, out) if out is not None else None
    if json:
        from json import dumps

        say(dumps(found.to_dict(), indent=1))
    else:
        show_comparison(found)
        if picture is not None:
            say(f"picture: {printable(str(picture))}")


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, frames stores, or folders of them.")],
    frames: Annotated[int, typer.Option(min=0, help="Frames of each run that are searched again.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of these frames.")] = 0,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take frames stores that were changed on purpose as they are now.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with an object for each.")] = False,
) -> None:
    """Check runs and frames stores against their checksums. Ends with status 1 where anything is damaged."""
    from dataclasses import asdict
    from json import dumps

    from braggflow.console import open_console, plain, saying

    with saying("checking"):
        from braggflow.evaluate import verify
        from braggflow.frames import accept_store

        if accept:
            for path in paths:
                accept_store(path)
        found = [one for path in paths for one in verify(path, frames=frames, seed=seed)]
    if json:
        say(dumps([asdict(one) | {"damaged": one.damaged} for one in found], indent=1, default=str))
    else:
        console = open_console()
        for one in found:
            plain(console, f"{one.kind} {one.path}: {'DAMAGED' if one.damaged else 'as it was written'}")
            for check in one.checks:
                plain(console, f"  {check.what:<13}{check.state:<13}{check.said}")
    if any(one.damaged for one in found):
        raise typer.Exit(1)
