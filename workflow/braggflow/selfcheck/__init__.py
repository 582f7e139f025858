"""How good a run is on its own frames: peaks of known place are added to copies of them and looked for again."""

from braggflow.selfcheck.added_peaks import expected_snr
from braggflow.selfcheck.ahead import compile_check
from braggflow.selfcheck.checking import check_run
from braggflow.selfcheck.figures import ADDED_DTYPE, LIMIT_SNR, SNR, figures_of, share_of_groups
from braggflow.selfcheck.matching import match_places
from braggflow.selfcheck.places import Place, places_of
from braggflow.selfcheck.verdict import CHECK_COLUMNS, check_table, scope_of

__all__ = [
    "ADDED_DTYPE",
    "CHECK_COLUMNS",
    "LIMIT_SNR",
    "SNR",
    "Place",
    "check_run",
    "check_table",
    "compile_check",
    "expected_snr",
    "figures_of",
    "match_places",
    "places_of",
    "scope_of",
    "share_of_groups",
]
