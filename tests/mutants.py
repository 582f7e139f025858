"""Can the tests fail? Small random changes of the code, one at a time, each of which the tests of its room must notice.

`make mutants` makes 300 of them with cosmic-ray, in copies of the tree, and lists those that no test noticed, each as a
diff. A change is judged first by the tests that run its lines themselves, as coverage has it; by all of the room's
where there are none, or where the lines also run in fixtures, in threads or at import. (Other processes are not seen.)
MUTATE="--number 40 --seed 1" for others, "--rooms results config.py" for some rooms, "--lanes 4" for four at a time.
"""

import argparse
import ast
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import traceback
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
#: Tests of faults too: of the flow they are most.
MARKED = "not slow and not slurm and not browser and not documents"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", MARKED]
LIMITS = ["-o", f"faulthandler_timeout={TEST_TIMEOUT}", "-o", "faulthandler_exit_on_timeout=true"]
_PLACE = ("module_path", "operator_name", "operator_args", "occurrence")
_CONFIG = """[cosmic-ray]
module-path = ["{module}"]
timeout = {timeout}
excluded-modules = []
test-command = "{python} {this} --judge {room}"
[cosmic-ray.distributor]
name = "local"
"""


def files_of(room: str) -> list[Path]:
    """The modules of a room."""
    place = REPOSITORY / PACKAGE / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return [file.relative_to(REPOSITORY) for file in files]


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


def coverage_of(room: str) -> Path:
    return BUILD / f"{Path(room).stem}.coverage"


def judge(room: str) -> int:
    """Whether the tests notice the change that was made of the tree here, as pytest's exit status."""
    from coverage import CoverageData  # in a folder of its own, which the tests' environment does not have

    plain = ["-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false"]
    changed = subprocess.run(["git", *plain, "diff", "-U0"], capture_output=True, text=True, check=True).stdout
    module = Path(re.findall(r"^--- a/(.*)$", changed, re.M)[0])
    spans = [(int(first), int(n or 1)) for first, n in re.findall(r"^@@ -(\d+)(?:,(\d+))?", changed, re.M)]
    ran: set[str] = set()
    for one in ROOMS:  # tests of other rooms run its lines too
        data = CoverageData(str(coverage_of(one)))
        data.read()
        by_line = data.contexts_by_lineno(str(module))
        ran.update(*(by_line.get(line, []) for first, n in spans for line in range(first, first + n)))
    # tests.frames.test_store.test_name
    parts = [context.rsplit(".", 1) for context in ran if context]
    own = [f"{place.replace('.', '/')}.py::{name}" for place, name in parts]
    files = tests_of(module, room)
    own.sort(key=lambda test: files.index(test.partition("::")[0]) if test.partition("::")[0] in files else len(files))
    for tests in [own, files] if "" in ran or not own else [own]:
        status = subprocess.run([*PYTEST, "-x", *LIMITS, *tests], check=False).returncode if tests else 0
        if status not in (0, 5):  # 5: of these, no test is run here
            return status
    return 0


def session_of(tree: Path, module: Path, room: str) -> Path:
    """All changes that cosmic-ray knows of a module."""
    session = BUILD / f"{'-'.join(module.with_suffix('').parts[2:])}.sqlite"
    session.with_suffix(".toml").write_text(
        _CONFIG.format(module=module, timeout=TIMEOUT, python=sys.executable, this=Path(__file__), room=room)
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
    path = os.pathsep.join([str(tree), str(tree / "workflow"), str(BUILD / "venv" / "coverage")])
    environment = os.environ | {"PYTHONPATH": path, "NUMBA_CACHE_DIR": f"{tree}-kernels"}
    subprocess.run(command, cwd=tree, env=environment, check=True)


def made_ready(tree: Path) -> None:
    """A copy of the tree that has its kernels: no test is stopped for compiling them."""
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, tree], check=True)
    (tree / "coverage.ini").write_text("[run]\nrelative_files = true\ndynamic_context = test_function\n")
    in_tree(tree, sys.executable, "-c", "from braggflow.pipeline import compile_ahead; compile_ahead()")


def covered(room: str, trees: SimpleQueue) -> None:
    """Note which tests of a room run which lines; they must all pass."""
    tree, words = trees.get(), ["--rcfile=coverage.ini", f"--data-file={coverage_of(room)}"]
    words.append("--include=" + ",".join(str(file) for one in ROOMS for file in files_of(one)))
    try:
        in_tree(tree, sys.executable, "-m", "coverage", "run", *words, *PYTEST[1:], "-x", *ROOMS[room].split())
    finally:
        trees.put(tree)


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
    parser.add_argument("--judge", choices=ROOMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.judge:
        try:
            status = judge(given.judge)
        except Exception:  # noqa: BLE001 - an error of the judge is nothing that the tests noticed
            traceback.print_exc()
            status = 0
        sys.exit(status)
    trees: SimpleQueue = SimpleQueue()
    for lane in range(given.lanes):
        made_ready(BUILD / f"tree-{lane}")
        trees.put(BUILD / f"tree-{lane}")
    with ThreadPoolExecutor(given.lanes) as lanes:
        list(lanes.map(lambda room: covered(room, trees), reversed(ROOMS)))
    sessions = [session_of(BUILD / "tree-0", file, room) for room in given.rooms for file in files_of(room)]
    # Sorted by their places in the code, for jobs have random names.
    changes = sorted(change for session in sessions for change in changes_of(session))
    chosen = {change[-1] for change in Random(given.seed).sample(changes, min(given.number, len(changes)))}
    with ThreadPoolExecutor(given.lanes) as lanes:
        results = list(lanes.map(lambda session: tried(session, chosen, trees), sessions))
    killed, total = sum(noticed for noticed, _ in results), len(chosen)
    print(f"\n{killed} of {total} changes noticed ({killed / max(1, total):.1%})")


if __name__ == "__main__":
    main()
