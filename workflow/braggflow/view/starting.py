"""`view`: open what is to be looked at, and a page on it."""

import os
import tempfile
import webbrowser
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import xarray as xr
from bokeh.document import Document
from numpy.typing import NDArray

from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.results import Run
from braggflow.view.page import Page
from braggflow.view.serving import PageServer
from braggflow.view.viewed import Viewed, open_viewed

#: Height of the page in a notebook, pixels of the screen.
_HEIGHT = 820


class View:
    """A page that is served, as `view` starts it; a notebook shows it.

    Attributes
    ----------
    url : str
        Its address. Whoever knows it can use the page: it holds the token.

    Examples
    --------
    >>> import braggflow
    >>> with braggflow.view("runs/scan") as page:
    ...     print(page.url)
    http://127.0.0.1:...
    """

    def __init__(self, server: PageServer, viewed: Viewed) -> None:
        self._server, self._viewed = server, viewed

    @property
    def url(self) -> str:
        """The page's address, token included."""
        return self._server.url

    def stop(self) -> None:
        """End the page's server."""
        self._server.stop()

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<braggflow view of {self._viewed.name}, {len(self._viewed.numbers):,} frames: {self.url}>"

    def _repr_html_(self) -> str:
        return f'<iframe src="{escape(self.url)}" style="width: 100%; height: {_HEIGHT}px; border: 0"></iframe>'


def view(
    source: "Run | str | Path | xr.Dataset | xr.DataArray | NDArray[Any]",
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    frame: int | None = None,
    folder: str | Path = ".",
    port: int = 0,
    dark: bool = False,
) -> View:
    """Look at frames and their peaks, tune, mask and explain, on a page: in a notebook, or by its address.

    Parameters
    ----------
    source : Run, str, pathlib.Path, xarray.Dataset, xarray.DataArray or numpy.ndarray
        A run, as `open_run` returns it, or its folder; a frames store, or anything that `ingest` reads; or frames
        (frame, y, x) in memory. The peaks of a run are those of its table, those of anything else are searched live.
    config : RunConfig, mapping, str or pathlib.Path, optional
        The configuration that is begun with, or the name of its YAML file. Default: every key at its default. A run
        brings its own.
    frame : int, optional
        The number of the frame that is shown first. Default: the middle one.
    folder : str or pathlib.Path, default "."
        Where configurations and masks that are saved on the page go.
    port : int, default 0
        Of the loopback interface. 0: one that is free.
    dark : bool, default False
        A dark page.

    Returns
    -------
    View
        The page; a notebook shows it. `url` is its address, `stop()` ends it. It is served in a thread of this
        process, on the loopback interface, to those who know the token in the address.

    Raises
    ------
    InputError
        Where the source cannot be opened, has no frame of this number, the folder does not exist or the port is not
        free.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=4, shape=(64, 64), peaks=2)
    >>> page = braggflow.view("scan.zarr", frame=2)
    >>> page
    <braggflow view of scan.zarr, 4 frames: http://127.0.0.1:...>
    >>> page.stop()
    """
    viewed = open_viewed(source, config)
    server = PageServer(_page_maker(viewed, frame, Path(folder), dark), port=port)
    server.start()
    return View(server, viewed)


def serve_page(
    source: str | Path,
    config: Path | None = None,
    *,
    frame: int | None = None,
    folder: Path = Path(),
    port: int = 0,
    dark: bool = False,
) -> PageServer:
    """The server of `view`, not yet running: its `run` serves in the calling thread. Arguments and errors as there."""
    return PageServer(_page_maker(open_viewed(source, config), frame, folder, dark), port=port)


def _page_maker(viewed: Viewed, frame: int | None, folder: Path, dark: bool) -> Callable[[Document], None]:
    """What makes the page for each visitor; raises `InputError` for a frame or folder that is not there."""
    if not folder.is_dir():
        raise InputError(f"folder {folder}: does not exist; make it first")
    if frame is not None and frame not in viewed.numbers:
        numbers = viewed.numbers
        raise InputError(
            f"frame {frame}: {viewed.name} has no such frame; there are {len(numbers):,}, {numbers[0]} to {numbers[-1]}"
        )

    def make(document: Document) -> None:
        Page(document, viewed, folder.resolve(), frame=frame, dark=dark)

    return make


def open_in_browser(url: str) -> bool:
    """Open an address in the user's browser; False where there is none.

    By a file that only the user can read: other users of the machine see what a browser is started with.
    """
    handle, name = tempfile.mkstemp(prefix="braggflow-view-", suffix=".html")
    with os.fdopen(handle, "w") as file:
        file.write(f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={escape(url)}">')
    return webbrowser.open(Path(name).as_uri())
