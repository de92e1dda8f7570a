"""The exception for errors that the user can correct, and error messages on one line."""

_LONGEST = 1000
"""Characters of a line of an error: names and values in damaged files may have any length."""


class UserError(Exception):
    """An error outside the program: in a file, a setting or a checkpoint.

    The entry points print its lines and exit with 1. Each line names the file and the config key
    concerned and says what to do.

    Args:
        lines: One line for each error that was found.
    """

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(map(_shortened, lines))
        super().__init__("\n".join(self.lines))


def _shortened(line: str) -> str:
    """A line without its middle if it is too long to read; its ends name the file and the key."""
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


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
