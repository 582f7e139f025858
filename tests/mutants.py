"""Can the tests fail? Small random changes of the code, one at a time, each of which the tests of its room must notice.

`make mutants` makes 300 of them with cosmic-ray, in copies of the tree, and lists those that no test noticed, each as a
diff. MUTATE="--number 40 --seed 1" for others, "--rooms results config.py" for some rooms, "--lanes 4" for four at a
time.
"""

import argparse
import ast
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from random import Random

REPOSITORY = Path(__file__).parent.parent
BUILD = REPOSITORY / "build" / "mutants"
PACKAGE = Path("workflow/braggflow")
#: Rooms whose code is plain Python, and the tests that answer for each.
ROOMS = {
    "config.py": "tests/test_config.py tests/test_site.py tests/test_architecture.py",
    "results": "tests/results tests/formats_of_before tests/evaluate/test_verification.py "
    "tests/flow/test_in_process.py",
    "frames": "tests/frames tests/test_reported_inputs.py",
    "pipeline": "tests/pipeline",
    "flow": "tests/flow",
}
#: Changes that change nothing, or nothing that a test should hold: types and docstrings are no arithmetic.
LEFT_OUT = ("core/ReplaceBinaryOperator_BitOr", "core/RemoveDecorator", "core/ExceptionReplacer")
#: Seconds that the tests of a room, and one test, may take; a change that keeps them longer is noticed.
TIMEOUT, TEST_TIMEOUT = 1800, 200
_PLACE = ("module_path", "operator_name", "operator_args", "occurrence")
_CONFIG = """[cosmic-ray]
module-path = ["{module}"]
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:cacheprovider {limits} {tests}"
[cosmic-ray.distributor]
name = "local"
"""


def tests_of(module: Path, room: str) -> list[str]:
    """The files of the tests of a room; first those that name most of what the module defines."""
    tree = ast.parse((REPOSITORY / module).read_text())
    named = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    files = [REPOSITORY / word for word in ROOMS[room].split()]
    files = [found for file in files for found in (sorted(file.rglob("test_*.py")) if file.is_dir() else [file])]
    texts = {file: file.read_text() for file in files}
    own = {file: file.stem.removeprefix("test_") == module.stem for file in files}
    files.sort(key=lambda file: (-own[file], -sum(name in texts[file] for name in named)))
    return [str(file.relative_to(REPOSITORY)) for file in files]


def session_of(tree: Path, module: Path, room: str) -> Path:
    """All changes that cosmic-ray knows of a module."""
    session = BUILD / f"{'-'.join(module.with_suffix('').parts[2:])}.sqlite"
    limits = f"-o faulthandler_timeout={TEST_TIMEOUT} -o faulthandler_exit_on_timeout=true"
    session.with_suffix(".toml").write_text(
        _CONFIG.format(
            module=module,
            timeout=TIMEOUT,
            python=sys.executable,
            limits=limits,
            tests=" ".join(tests_of(module, room)),
        )
    )
    session.unlink(missing_ok=True)
    cosmic_ray("init", str(session.with_suffix(".toml")), str(session), tree=tree)
    with sqlite3.connect(session) as database:
        like = " or ".join(f"operator_name like '{operator}%'" for operator in LEFT_OUT)
        for table in ("work_items", "mutation_specs"):  # the second names what is deleted from the first
            unwanted = f"select job_id from mutation_specs where {like}"
            database.execute(f"delete from {table} where job_id in ({unwanted})")
    return session


def cosmic_ray(*words: str, tree: Path) -> None:
    in_tree(tree, str(BUILD / "venv" / "bin" / "cosmic-ray"), *words)


def in_tree(tree: Path, *command: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(tree / "workflow"), "NUMBA_CACHE_DIR": f"{tree}-kernels"}
    subprocess.run(command, cwd=tree, env=environment, check=True)


def made_ready(tree: Path, rooms: list[str]) -> None:
    """A copy of the tree in which all tests pass, and have their kernels: none is stopped for compiling them."""
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, tree], check=True)
    in_tree(tree, sys.executable, "-c", "from braggflow.pipeline import compile_ahead; compile_ahead()")
    tests = [word for room in rooms for word in ROOMS[room].split()]
    in_tree(tree, sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "2", *tests)


def changes_of(session: Path) -> list[tuple[str, ...]]:
    """Places of all changes, each with the name of its job, which is random."""
    with sqlite3.connect(session) as database:
        found = database.execute(f"select {', '.join(_PLACE)}, job_id from mutation_specs").fetchall()
    return [tuple(map(str, change)) for change in found]


def tried(session: Path, chosen: set[str], trees: SimpleQueue) -> tuple[int, list[str]]:
    """Make the chosen changes of a module; how many were noticed, and the diffs of the others."""
    left = [(change[-1],) for change in changes_of(session) if change[-1] not in chosen]
    with sqlite3.connect(session) as database:
        for table in ("mutation_specs", "work_items"):
            database.executemany(f"delete from {table} where job_id = ?", left)
    tree = trees.get()
    try:
        cosmic_ray("exec", str(session.with_suffix(".toml")), str(session), tree=tree)
    finally:
        trees.put(tree)
    with sqlite3.connect(session) as database:
        results = database.execute("select test_outcome, diff from work_results").fetchall()
    survived = [diff for outcome, diff in results if str(outcome).lower().endswith("survived")]
    print(f"{session.stem}: {len(results) - len(survived)} of {len(results)} noticed", flush=True)
    for diff in survived:
        print(f"not noticed:\n{diff}\n", flush=True)
    return len(results) - len(survived), survived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    trees: SimpleQueue = SimpleQueue()
    for lane in range(given.lanes):
        made_ready(BUILD / f"tree-{lane}", given.rooms)
        trees.put(BUILD / f"tree-{lane}")
    sessions = []
    for room in given.rooms:
        place = REPOSITORY / PACKAGE / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        sessions += [session_of(BUILD / "tree-0", file.relative_to(REPOSITORY), room) for file in files]
    # Sorted by their places in the code, for jobs have random names.
    changes = sorted(change for session in sessions for change in changes_of(session))
    chosen = {change[-1] for change in Random(given.seed).sample(changes, min(given.number, len(changes)))}
    with ThreadPoolExecutor(given.lanes) as lanes:
        results = list(lanes.map(lambda session: tried(session, chosen, trees), sessions))
    killed, total = sum(noticed for noticed, _ in results), len(chosen)
    print(f"\n{killed} of {total} changes noticed ({killed / max(1, total):.1%})")


if __name__ == "__main__":
    main()
