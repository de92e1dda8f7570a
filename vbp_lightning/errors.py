"""The one kind of error that a person can mend and that needs no traceback; others on one line."""


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


def one_line(error: BaseException) -> str:
    """What an exception says, line feeds and indents as single spaces."""
    return " ".join(str(error).split())


def reason(error: BaseException) -> str:
    """What lies behind an exception that only passes on another, as Hydra's and rasterio's do.

    Args:
        error: Raised from another, or by itself.

    Returns:
        What the other says, or else the exception itself, on one line.
    """
    return one_line(error.__cause__ or error)
