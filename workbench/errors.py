"""The one exception that means "your input, not our code"."""


class InputError(ValueError):
    """Bad input, found before expensive work.

    The message says what was wrong, what was expected, and a call that would work. The command line prints
    it without a traceback and exits with 2.
    """
