"""How runs stand, for programs."""

import json
from dataclasses import asdict
from pathlib import Path

from braggflow.results import data_set_statuses


def statuses_as_json(folder: Path) -> str:
    """A list with an object for each data set: the fields of `DataSetStatus`, and whether it has ended."""
    states = data_set_statuses(folder)
    return json.dumps([{**asdict(state), "path": str(state.path), "ended": state.ended} for state in states], indent=1)
