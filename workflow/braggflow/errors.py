"""The one error that a user's mistake is."""


class InputError(ValueError):
    """Something the user gave is refused: the message names it, its value and what is accepted.

    Every function of the package raises it for a mistake in its input. The command line prints the message and ends
    with exit status 2.

    Examples
    --------
    >>> import braggflow
    >>> try:
    ...     braggflow.open_run("nowhere")
    ... except braggflow.InputError as error:
    ...     print(error)
    nowhere: holds no run (no run.json)
    """
