"""Which configuration, code, model and inputs the rows of a peak table were made of.

The record is `run.json`; the table carries it too, in its attribute `provenance`, so that it can be moved away.
"""

import ast
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import xarray as xr

from braggflow.config import RunConfig
from braggflow.errors import InputError, printable
from braggflow.former import from_former
from braggflow.frames import sealed
from braggflow.peak_table import PEAKS_FORMAT
from braggflow.results.folder import RunFolder, read_run_info
from braggflow.results.identity import image_files
from braggflow.results.peaks import open_stored_peaks

#: The table's own record has at most so many inputs of one kind, and one line for all where there are more.
MOST_IN_TABLE = 100
#: Inputs of one kind that are printed, and digits of checksums.
_SHOWN, _DIGITS = 5, 16
_UNSTATED = "not stated"


@dataclass(frozen=True, slots=True)
class Input:
    """One thing that a run read.

    Attributes
    ----------
    role : str
        `frames` (the frames store, or a detector file that was read directly), `source` (what the store was made of),
        or the key of the configuration that names it: `frames.mask`, `frames.dark`, `frames.flat`, `detect.background`.
    name : str
        Its path, as it was when the run began; of a simulated series, how that was made.
    bytes : int or None
        Its size.
    changed : str
        When it was last changed, UTC, ISO 8601; "" where that is not known.
    checksum : str
        SHA-256: of an image's file; of a source's frames, as ingest read them; of a store, of all that its own
        checksums state (docs/ingest.md). "" where there is none: of detector files that are read directly.
    """

    role: str
    name: str
    bytes: int | None = None
    changed: str = ""
    checksum: str = ""

    def __str__(self) -> str:
        told = [printable(self.name)]
        told += [] if self.bytes is None else [f"{self.bytes:,} bytes"]
        told += [f"last changed {self.changed}"] if self.changed else []
        told += [f"checksum {self.checksum[:_DIGITS]}"] if self.checksum else []
        return ", ".join(told)


def html_pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Pairs of a name and a text as the table that a notebook shows."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(printable(text))}</td></tr>" for name, text in rows)
    return f'<table style="text-align: left">{cells}</table>'


@dataclass(frozen=True, slots=True, repr=False)
class Provenance:
    """What `provenance` says of a run or of a peak table. All rows of a table are made alike.

    Attributes
    ----------
    data_set : str
        Its name.
    run : str
        The digest of what must be equal for results to belong together: settings, image files, code, model, frames.
    code : dict
        `version` of braggflow, and a hash of its `sources`.
    versions : dict
        Of the packages that the numbers come from.
    model : dict or None
        The network: `name`, `file` and `sha256` of its weights; None where none was asked.
    settings : dict
        The settings that decide the result, by section.
    detector : dict
        The detector's constants: `counts_per_photon`, `read_noise`, how they were found.
    inputs : tuple of Input
        What was read.
    status, written : str
        How the run ended, and when (UTC); "" where only the table is there.

    Examples
    --------
    >>> import braggflow
    >>> made = braggflow.provenance("runs/scan")
    >>> made
    data set  scan
    run       ..., complete, ...
    code      braggflow ..., sources ...
    with      numpy ...
    model     compact, compact_11.safetensors, sha256 ...
    settings  the defaults
    detector  counts_per_photon ..., read_noise ...
    frames    ...scan.zarr, ... bytes, last changed ..., checksum ...
    source    simulated (n_frames: 4, ...)
    >>> made.inputs[0].role, made.inputs[0].bytes > 0
    ('frames', True)
    """

    data_set: str
    run: str
    code: dict[str, str]
    versions: dict[str, str]
    model: dict[str, str] | None
    settings: dict[str, Any]
    detector: dict[str, Any]
    inputs: tuple[Input, ...]
    status: str = ""
    written: str = ""

    @property
    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from the defaults of this version, as `section.key`."""
        defaults = RunConfig().result_settings()
        return {
            f"{section}.{key}": value
            for section, keys in self.settings.items()
            for key, value in keys.items()
            if value != defaults.get(section, {}).get(key)
        }

    def _repr_html_(self) -> str:
        return html_pairs(self.lines())

    def lines(self) -> Iterator[tuple[str, str]]:
        """What is printed: pairs of a name and a text."""
        yield "data set", printable(self.data_set)
        yield "run", self.run[:_DIGITS] + "".join(f", {text}" for text in (self.status, self.written) if text)
        yield "code", self.code_told()
        others = [f"{name} {version}" for name, version in self.versions.items() if name != "braggflow"]
        if others:
            yield "with", ", ".join(others)
        yield "model", self.model_told()
        changed = ", ".join(f"{key}: {json.dumps(value)}" for key, value in self.changed_settings.items())
        yield "settings", (printable(changed) or "the defaults") if self.settings else _UNSTATED
        constants = [f"{key} {self.detector[key]:g}" for key in ("counts_per_photon", "read_noise") if self.detector]
        if constants:
            yield "detector", ", ".join(constants)
        for role, of_role in groupby(self.inputs, key=lambda found: found.role):
            found = [*of_role]
            for shown in found[:_SHOWN]:
                yield role, str(shown)
            if len(found) > _SHOWN:
                yield role, f"and {len(found) - _SHOWN:,} more"

    def code_told(self) -> str:
        """The version of braggflow, as one text."""
        return f"braggflow {self.code['version']}, sources {self.code['sources']}" if self.code else _UNSTATED

    def model_told(self) -> str:
        """The network and its weights, as one text."""
        if self.model is None:
            return "none"
        name, file, weights = (self.model.get(key, "?") for key in ("name", "file", "sha256"))
        return f"{name}, {file}, sha256 {weights[:_DIGITS]}"

    def __repr__(self) -> str:
        lines = [*self.lines()]
        width = max(len(name) for name, _ in lines) + 2
        return "\n".join(f"{name:<{width}}{text}" for name, text in lines)


def provenance(run: str | Path | xr.Dataset) -> Provenance:
    """Say with which configuration, code, model and inputs a run, or a peak table, was made.

    Parameters
    ----------
    run : str, pathlib.Path or xarray.Dataset
        A run folder, ``OUT/DATASET``; a ``peaks.zarr``, also one that was moved away from its run; or what
        `open_peaks` returned.

    Returns
    -------
    Provenance
        It prints as a few lines. Runs and tables of earlier versions say what they know.

    Raises
    ------
    InputError
        Where there is no run and no peak table, or one that is damaged; for a Dataset that is no table of a run.

    Examples
    --------
    >>> import braggflow
    >>> made = braggflow.provenance("runs/scan")
    >>> made.data_set, made.model["file"], made.changed_settings
    ('scan', 'compact_11.safetensors', {})
    >>> [found.role for found in made.inputs]
    ['frames', 'source']
    >>> braggflow.provenance(braggflow.open_peaks("runs/scan")).run == made.run
    True
    """
    what = "peaks" if isinstance(run, xr.Dataset) else str(run)
    try:
        if isinstance(run, xr.Dataset):
            return _of_table(run.attrs, what)
        if Path(run).suffix != ".zarr":
            return _of_info(read_run_info(RunFolder(Path(run))))
        with open_stored_peaks(run) as table:
            return _of_table(table.attrs, what)
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: does not say how it was made ({type(error).__name__}: {error})") from error


def recorded_inputs(path: Path, data: xr.Dataset, config: RunConfig, *, size: int, changed_ns: int) -> dict[str, Any]:
    """What `run.json` says of a run's inputs beside its identity, which has the sources, and checksums of the images.

    `size` (bytes) and `changed_ns` are those of the frames store at `path`, 0 where it is none.
    """
    store = {"bytes": size, "changed": _time(changed_ns), "checksum": sealed(path)}
    images = {key: (file, file.stat()) for key, file in image_files(config).items()}
    return {
        **({"store": store} if size else {}),
        **({"source_folder": str(data.attrs["source_folder"])} if "source_folder" in data.attrs else {}),
        "images": {
            key: {"name": str(file), "bytes": stat.st_size, "changed": _time(stat.st_mtime_ns)}
            for key, (file, stat) in images.items()
        },
    }


def provenance_attribute(info: Mapping[str, Any]) -> str:
    """The table's attribute: the provenance of a run as JSON, but for what another session could change."""
    made = _of_info(info)
    inputs = [
        one
        for _, found in groupby(made.inputs, key=lambda one: one.role)
        for one in _summed([*found])  # those of one kind stand together
    ]
    kept = {key: value for key, value in asdict(made).items() if key not in ("status", "written")}
    kept["detector"].pop("bad_pixels", None)  # lists of places
    return json.dumps({**kept, "inputs": [asdict(one) for one in inputs]})


def _summed(found: list[Input]) -> list[Input]:
    """One input in place of more than a table should carry."""
    if len(found) <= MOST_IN_TABLE:
        return found
    folder = os.path.commonpath([str(Path(one.name).parent) for one in found])
    all_of_them = "".join(one.checksum for one in found)
    return [
        Input(
            found[0].role,
            f"{len(found)} in {folder}",
            sum(one.bytes or 0 for one in found),
            max(one.changed for one in found),
            sha256(all_of_them.encode()).hexdigest() if all_of_them else "",
        )
    ]


def _of_info(info: Mapping[str, Any]) -> Provenance:
    """Of the content of a `run.json`, of any version."""
    identity, versions = info["identity"], dict(info.get("versions", {}))
    return Provenance(
        data_set=str(info["dataset"]["name"]),
        run=str(info["run"]),
        code=dict(identity["code"]),
        versions=versions,
        model=identity["model"],
        settings=from_former(identity["settings"]),
        detector=dict(info.get("detector", {})),
        inputs=tuple(dict.fromkeys(_inputs(info["dataset"], identity))),
        status=str(info["status"]),
        written=str(info.get("written", "")),
    )


def _inputs(dataset: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterator[Input]:
    recorded = dataset.get("inputs", {})
    origin = identity["frames"].get("origin")
    folder = str(recorded.get("source_folder", ""))
    sources = origin if isinstance(origin, list) else []
    direct = [source for source in sources if "files" in source]
    if not direct:
        store = recorded.get("store", {})
        stated = (store.get(key, "") for key in ("changed", "checksum"))
        yield Input("frames", str(dataset["path"]), store.get("bytes"), *stated)
    for source in direct:
        for name, size, changed in source["files"]:
            yield Input("frames", os.path.normpath(Path(folder, name)), size, _time(changed))
    for source in sources:
        if "files" not in source:
            checksum = str(source.get("sha256", ""))
            name = os.path.normpath(Path(folder, str(source["name"])))
            yield Input("source", name, source.get("bytes"), checksum=checksum)
    if isinstance(origin, dict) and "made" not in origin:
        yield Input("source", f"simulated ({', '.join(_plain(origin))})")
    images = recorded.get("images", {})
    for key, checksum in identity.get("files", {}).items():
        image = images.get(key, {})
        name = str(image.get("name", key))
        yield Input(key, name, image.get("bytes"), image.get("changed", ""), checksum)


def _plain(origin: Mapping[str, Any]) -> Iterable[str]:
    return (f"{key}: {value}" for key, value in origin.items() if isinstance(value, str | int | float))


def _of_table(attributes: Mapping[str, Any], what: str) -> Provenance:
    """Of the attributes of a peak table."""
    if attributes.get("format") != PEAKS_FORMAT or "run" not in attributes:
        raise InputError(f"{what}: is no peak table of a run, which says how it was made")
    if "provenance" not in attributes:  # of before tables had it
        source, model = str(attributes.get("source", "")), ast.literal_eval(str(attributes.get("model")))
        inputs = (Input("frames", source),) if source else ()
        return Provenance(Path(source).stem, str(attributes["run"]), {}, {}, model, {}, {}, inputs)
    stated = json.loads(attributes["provenance"])
    return Provenance(**{**stated, "inputs": tuple(Input(**one) for one in stated["inputs"])})


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds")
