"""The exception for errors that the user can correct, and error messages on one line."""


class UserError(Exception):
    """An error outside the program: in a file, a setting or a checkpoint.

    The entry points print its lines and exit with 1. Each line names the file and the config key
    concerned and says what to do.

    Args:
        lines: One line for each error that was found.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def one_line(error: BaseException) -> str:
    """The message of an exception, with line feeds and indents as single spaces."""
    return " ".join(str(error).split())


def reason(error: BaseException) -> str:
    """The message of an exception's cause, which Hydra's and rasterio's exceptions wrap.

    Args:
        error: An exception, with or without a cause.

    Returns:
        On one line, the message of the cause, or of the exception itself if it has none.
    """
    return one_line(error.__cause__ or error)
