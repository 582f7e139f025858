"""The one error that a user's mistake is."""


class InputError(ValueError):
    """Something the user gave is refused: the message names it, its value and what is accepted. Exit status 2."""
