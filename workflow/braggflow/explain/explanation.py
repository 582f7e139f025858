"""What is told of a place of a frame."""

import base64
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from braggflow.explain.findings import Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False, eq=False)
class Explanation(Findings):
    """Why there is a peak at a place, or none, as `explain` tells it; a notebook shows words and picture.

    Arrays are (y, x), of pixels of the searched frame, which are `bin` × `bin` pixels of the detector.

    Attributes
    ----------
    kind : {"peak", "maximum", "no maximum", "masked"}
        What is at the place.
    words : list of str
        What there is to say, a sentence each.
    source : str
        What the frame is of.
    frame : int
        Its number.
    asked : tuple of float
        The place (y, x) that was asked for, pixels of the detector.
    place : tuple of float
        That of what was found there, the middle of the pictures: the peak's position, a maximum's pixel, else `asked`.
    counts : float
        Of the pixel asked for, corrected; NaN where it is ignored.
    level, deviation : float
        Local background there and the standard deviation of a pixel at that level, counts.
    patch : numpy.ndarray
        (size, size) counts around the maximum, NaN where ignored or beyond the frame.
    corner : tuple of float
        Place of the middle of the patch's first pixel, pixels of the detector.
    bin : int
        Detector pixels along each side of a pixel of the patch.
    state : numpy.ndarray or None
        (size, size), of a peak: a `braggflow.patches.State` for each pixel.
    model, residual : numpy.ndarray or None
        (size, size), of a peak with a fit: expected counts of its fitted profile and those of its neighbours; counts
        less these, in standard deviations (NaN in pixels that the fit was not shown).
    before, after : numpy.ndarray or None
        (size, size) counts at the same place in the selected frames before and after; None where there is none.
    maximum : Maximum or None
        The maximum that was found, with where it merges.
    peak : xarray.Dataset or None
        The peak's row of the table, as `run` writes it.
    neighbours : xarray.Dataset or None
        The rows of other peaks that have their maxima in the patch, nearest first.
    network_std : tuple of float
        Standard uncertainty (y, x) of the network's position, pixels; NaN where it states none or was not asked.

    Examples
    --------
    >>> import numpy as np
    >>> import braggflow
    >>> y, x = np.mgrid[:64, :64]
    >>> frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
    >>> why = braggflow.explain(frame, 20, 32)
    >>> why.kind, why.row["method"], why.row["flags"], round(why.row["y"], 1)
    ('peak', 'gaussian', '', 20.3)
    >>> why.patch.shape == why.model.shape == why.residual.shape
    True
    """

    @cached_property
    def figure(self) -> "Figure":
        """The picture: patch, model, residual, cuts, and the frames before and after."""
        from braggflow.explain.picture import explanation_figure  # matplotlib takes half a second

        return explanation_figure(self)

    def __repr__(self) -> str:
        y, x = self.asked
        head = f"<braggflow explanation of {self.source}, frame {self.frame}, ({y:g}, {x:g}): {self.kind}>"
        return "\n".join([head, *self.words])

    def _repr_html_(self) -> str:
        content = BytesIO()
        self.figure.savefig(content, format="png")
        picture = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
        told = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.words)
        rows = "".join(f"<tr><th>{name}</th><td>{escape(_shown(value))}</td></tr>" for name, value in self.row.items())
        table = f"<details><summary>the row of the table</summary><table>{rows}</table></details>" if rows else ""
        return f'<ul>{told}</ul><img style="max-width: 100%" src="{picture}">{table}'


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
