"""What is tried with one file, and what may become of it; a worker process tries one after the other."""

import faulthandler
import json
import logging
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np

#: Memory that a file may take beyond what the program takes itself, bytes.
MEMORY = 2 * 2**30
#: Seconds after which it is written where a case stands.
TELL_WHERE = 15.0
CONFIG = {"detect": {"minval": 20, "minscore": 10}, "locate": {"network": "none"}}


def trial(path: Path, folder: Path) -> dict[str, str]:
    """Inspect, convert and search a file: what each came to, `done`, `partial` or `refused: MESSAGE`.

    Whatever else is raised is a finding, as is a store that has its name and is not whole.
    """
    import braggflow
    from braggflow.convert import ingest, inspect_series

    found: dict[str, str] = {}
    out = folder / "out.zarr"
    is_store = path.suffix == ".zarr"

    def inspect() -> str:
        (facts,) = inspect_series([path])
        json.dumps([facts.frames, facts.warnings])
        return "partial" if facts.missing_frames or any("cannot be read" in said for said in facts.warnings) else "done"

    def convert() -> str:
        ingest([path], out, workers=1)
        data = braggflow.open_frames(out)
        data["frames"].load()
        return "partial" if data.attrs.get("missing_frames") else "done"

    def search() -> str:
        braggflow.find_peaks(braggflow.open_frames(path), config=CONFIG)
        return "done"

    steps = {"inspect": inspect, "search": search} if is_store else {"inspect": inspect, "ingest": convert}
    if not is_store and path.suffix in (".h5", ".nxs"):
        steps["search"] = search
    for name, step in steps.items():
        try:
            found[name] = step()
        except braggflow.InputError as error:
            found[name] = f"refused: {error}"
            if name == "ingest" and out.exists():
                raise AssertionError(f"ingest refused {path} and left a store that looks whole") from error
    return found


def serve() -> None:
    """Try the cases whose numbers come on standard input, a line each; answer with a line of JSON."""
    from tests.fuzz.mutations import make_case

    faulthandler.enable()
    answers = sys.stdout
    sys.stdout = sys.stderr
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    _warm_up()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        answer: dict[str, object] = {}
        faulthandler.dump_traceback_later(TELL_WHERE)
        try:
            kind, done, path = make_case(int(line), folder)
            answer = {"kind": kind, "mutation": done}
            answer["found"] = trial(path, folder)
        except BaseException:  # noqa: BLE001 - what it is, is told
            answer["traceback"] = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps({"case": int(line), **answer}), file=answers, flush=True)


def _warm_up() -> None:
    """Everything imported and compiled once, by a whole file of each kind, which must come through."""
    from tests.fuzz.seeds import KINDS, frames

    for kind, write in KINDS.items():
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        found = trial(write(folder, frames().astype(np.uint16)), folder)
        shutil.rmtree(folder)
        missing = kind == "frames store"  # one of its frames
        if set(found.values()) != {"done"} and not missing:
            raise AssertionError(f"a whole file ({kind}): {found}")


if __name__ == "__main__":
    serve()
