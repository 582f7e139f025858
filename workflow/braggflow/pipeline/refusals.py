"""Series that cannot be processed with their configuration at all: refused alike wherever they come from."""

from braggflow.detect import searched_image
from braggflow.errors import InputError
from braggflow.frames import UNREADABLE, OpenedSeries


def refuse_no_frames(opened: OpenedSeries, what: str) -> None:
    """Raise `InputError` where none of the frames of a series, `what` it is, is selected."""
    if not opened.numbers:
        frames = opened.config.frames
        raise InputError(
            f"frames.start: {frames.start} (stop: {frames.stop}, step: {frames.step}) "
            f"selects none of the {opened.data.sizes['frame']} frames of {what}"
        )


def refuse_levels(opened: OpenedSeries) -> None:
    """Raise `InputError` where levels are noise multiples that neither first, middle nor last frame gives."""
    settings, n = opened.config.detect, len(opened.numbers)
    if not settings.in_sigma:
        return
    reason = ""
    for at in (0, n // 2, n - 1):
        try:
            frame = opened.corrected(opened.raw(at))
            searched_image(frame, settings, **opened.known)
        except InputError as error:
            reason = str(error)
        except UNREADABLE:
            return  # who processes the frame records it
        else:
            return
    raise InputError(f"detect.minval, detect.minscore: {reason}")
