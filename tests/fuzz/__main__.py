"""`python -m tests.fuzz`: many mutated files tried in worker processes, and a table of what became of them."""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.campaign import Campaign, run_on_a_cluster
from tests.fuzz.mutations import make_case
from tests.fuzz.trial import trial


def main() -> int:
    """0 where every file came through, was refused or was read in part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30, help="files that a real run on a local cluster is given too")
    parser.add_argument("--case", type=int, help="only this one, in this process, its file kept")
    options = parser.parse_args()
    if options.case is not None:
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{options.case}_"))
        print(*make_case(options.case, folder))
        print(trial(make_case(options.case, Path(tempfile.mkdtemp()))[2], folder))
        return 0
    campaign = Campaign(range(options.first, options.first + options.cases), options.workers)
    campaign.go(lambda finding: print(f"{finding}\n", flush=True))
    print(campaign.table(), flush=True)
    findings = [*campaign.findings, *run_on_a_cluster(options.first, options.runs)]
    by_kind = Counter(finding.splitlines()[0] for finding in findings)
    for finding in findings[len(campaign.findings) :]:
        print(f"\n{finding}")
    print(f"\n{len(findings)} findings" + "".join(f"\n  {n} x {first}" for first, n in by_kind.most_common()))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
