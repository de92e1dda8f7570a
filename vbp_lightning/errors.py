"""The one kind of error that a person can mend and that needs no traceback."""


class UserError(Exception):
    """Something outside the program is wrong: a file, a setting, a checkpoint.

    The entry points print its lines and exit with 1. Each line names the file and the config key
    concerned and says what to do.

    Args:
        lines: One line a fault; all that were found, not only the first.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
