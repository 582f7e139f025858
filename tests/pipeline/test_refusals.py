"""Series that cannot be processed at all are refused; others are not."""

import numpy as np
import pytest

from braggflow import InputError, RunConfig
from braggflow.frames import frames_from_array, open_series
from braggflow.pipeline import refuse_levels

LEVELS = {"false_peaks": None, "background": "none", "minval": "5 sigma", "minscore": "4 sigma"}
SIGMA = RunConfig.model_validate({"detect": LEVELS})


@pytest.mark.parametrize("noisy", [0, 3, 5, None], ids=["first", "middle", "last", "none"])
def test_levels_in_sigma_need_noise_in_the_first_the_middle_or_the_last_frame(noisy):
    frames = np.full((6, 48, 48), 1000, np.uint16)
    if noisy is None:
        frames[[1, 2, 4]] = np.random.default_rng(0).poisson(1000, (3, 48, 48))
        with pytest.raises(InputError, match=r"detect\.minval, detect\.minscore: "):
            refuse_levels(open_series(frames_from_array(frames), SIGMA))
        refuse_levels(open_series(frames_from_array(frames), RunConfig()))
    else:
        frames[noisy] = np.random.default_rng(0).poisson(1000, (48, 48))
        refuse_levels(open_series(frames_from_array(frames), SIGMA))
