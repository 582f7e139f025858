import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def the_same_networks() -> None:
    """Untrained networks are drawn with the same weights in every run of a test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real frames and reference lists."""
    folder = os.environ.get("BRAGGFLOW_REAL_DATA")
    if not folder:
        pytest.skip("BRAGGFLOW_REAL_DATA is not set: no real frames to test on")
    return Path(folder)
