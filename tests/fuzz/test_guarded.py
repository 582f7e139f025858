"""A short part of `make fuzz-guarded`: nothing that was turned, cut off or removed passes unseen."""

from pathlib import Path

import pytest

from tests.fuzz.guarded import Whole, campaign, make_whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return make_whole(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("target", "cases"), [("store", range(1000, 1030)), ("run", range(1000, 1012))])
def test_damage_is_named_or_does_no_harm(whole: Whole, target: str, cases: range, tmp_path: Path) -> None:
    counts, findings = campaign(whole, target, cases, tmp_path)
    assert findings == []
    assert sum(counts.values()) == len(cases)
    assert counts["detected"] > len(cases) / 2
