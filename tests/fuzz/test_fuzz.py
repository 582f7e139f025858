"""Files that are cut off, damaged or lie about themselves are refused with one message, or read as far as they go."""

from tests.fuzz.campaign import Campaign

#: Some of each kind; `make fuzz` tries 2,000.
CASES = 150


def test_damaged_files_are_refused_or_read_in_part_and_nothing_else() -> None:
    campaign = Campaign(range(CASES), workers=2)
    campaign.go()
    assert campaign.findings == []
    done = sum(n for (_, outcome), n in campaign.counts.items() if outcome.startswith("inspect"))
    assert done == CASES
