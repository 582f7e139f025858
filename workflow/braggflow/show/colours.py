"""The colours of marks: those of Okabe & Ito (Color Universal Design, 2008), which colour-blind eyes tell apart."""

from braggflow.peak_table import Method

BLUE: str = "#0072B2"
VERMILLION: str = "#D55E00"
GREEN: str = "#009E73"
PURPLE: str = "#CC79A7"
ORANGE: str = "#E69F00"
BLACK: str = "#000000"
IGNORED = "#bcdcf0"
METHOD_COLOURS = {
    Method.braggnn: PURPLE,
    Method.compact: BLUE,
    Method.gaussian: VERMILLION,
    Method.pseudo_voigt: ORANGE,
    Method.centroid: GREEN,
    Method.pixel: BLACK,
    Method.disk: VERMILLION,
}
#: Of a track by its number: neighbouring numbers differ.
TRACK_COLOURS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE)
