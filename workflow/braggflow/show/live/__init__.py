"""The page of a run that follows a series while that is written: a file that loads itself anew."""

from braggflow.show.live.page import LiveState, write_live_page

__all__ = ["LiveState", "write_live_page"]
