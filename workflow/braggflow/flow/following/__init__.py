"""A series processed while it is written: frames as they arrive, then what an ordinary run makes of the whole."""

from braggflow.flow.following.following import follow_series

__all__ = ["follow_series"]
