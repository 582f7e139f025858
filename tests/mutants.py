"""Can the tests fail? Small random changes of the code, one at a time, each of which the tests of its room must notice.

`make mutants` makes 300 of them with cosmic-ray, in a copy of the tree, and lists those that no test noticed, each as a
diff. MUTATE="--number 40 --seed 1" for others, "--rooms results config.py" for some rooms.
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

REPOSITORY = Path(__file__).parent.parent
BUILD = REPOSITORY / "build" / "mutants"
#: Rooms whose code is plain Python, and the tests that answer for each.
ROOMS = {
    "config.py": "tests/test_config.py tests/test_architecture.py",
    "results": "tests/results tests/evaluate/test_verification.py tests/flow/test_in_process.py",
    "frames": "tests/frames tests/test_reported_inputs.py",
    "pipeline": "tests/pipeline",
    "flow": "tests/flow",
}
#: Changes that change nothing, or nothing that a test should hold: types and docstrings are no arithmetic.
LEFT_OUT = ("core/ReplaceBinaryOperator_BitOr", "core/RemoveDecorator", "core/ExceptionReplacer")
#: Seconds that the tests of a room may take; a change that keeps them longer is noticed.
TIMEOUT = 900
_PLACE = ("module_path", "operator_name", "operator_args", "occurrence")
_CONFIG = """[cosmic-ray]
module-path = ["workflow/braggflow/{room}"]
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
"""


def session_of(tree: Path, room: str) -> Path:
    """All changes that cosmic-ray knows of a room."""
    config = tree.parent / f"{room}.toml"
    config.write_text(_CONFIG.format(room=room, timeout=TIMEOUT, python=sys.executable, tests=ROOMS[room]))
    session = tree.parent / f"{room}.sqlite"
    session.unlink(missing_ok=True)
    cosmic_ray("init", str(config), str(session), tree=tree)
    with sqlite3.connect(session) as database:
        like = " or ".join(f"operator_name like '{operator}%'" for operator in LEFT_OUT)
        for table in ("work_items", "mutation_specs"):  # the second names what is deleted from the first
            unwanted = f"select job_id from mutation_specs where {like}"
            database.execute(f"delete from {table} where job_id in ({unwanted})")
    return session


def cosmic_ray(*words: str, tree: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(tree / "workflow"), "NUMBA_CACHE_DIR": str(tree.parent / "kernels")}
    subprocess.run([BUILD / "venv" / "bin" / "cosmic-ray", *words], cwd=tree, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    given = parser.parse_args()
    tree = BUILD / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, tree], check=True)
    sessions = {room: session_of(tree, room) for room in given.rooms}
    changes = []
    for room, session in sessions.items():
        with sqlite3.connect(session) as database:
            found = database.execute(f"select {', '.join(_PLACE)}, job_id from mutation_specs")
            changes += [(room, *map(str, change)) for change in found]
    # Sorted by their places in the code, for jobs have random names.
    chosen = {change[-1] for change in Random(given.seed).sample(sorted(changes), min(given.number, len(changes)))}
    killed, survived = 0, []
    for room, session in sessions.items():
        with sqlite3.connect(session) as database:
            left = [(change[-1],) for change in changes if change[0] == room and change[-1] not in chosen]
            for table in ("mutation_specs", "work_items"):
                database.executemany(f"delete from {table} where job_id = ?", left)
        cosmic_ray("exec", str(tree.parent / f"{room}.toml"), str(session), tree=tree)
        with sqlite3.connect(session) as database:
            for outcome, diff in database.execute("select test_outcome, diff from work_results"):
                if str(outcome).lower().endswith("survived"):
                    survived.append((room, diff))
                else:
                    killed += 1
    for room, diff in survived:
        print(f"\nnot noticed by {ROOMS[room]}:\n{diff}")
    total = killed + len(survived)
    print(f"\n{killed} of {total} changes noticed ({killed / max(1, total):.1%})")


if __name__ == "__main__":
    main()
