"""The exception for errors that the user can correct, and text that is safe to print."""

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of terminals, of the direction of text, and undecodable bytes."""

_LONGEST = 1000
"""Characters of a line of an error: names and values in damaged files may have any length."""


class UserError(Exception):
    """An error outside the program: in a file, a setting or a checkpoint.

    The entry points print its lines and exit with 1. Each line names the file and the config key
    concerned and says what to do.

    Args:
        lines: One line for each error that was found; equal ones are kept once, as several scenes
            may share a file.
    """

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(dict.fromkeys(map(_shortened, lines)))
        super().__init__("\n".join(self.lines))


def _shortened(line: str) -> str:
    """A line without its middle if it is too long to read; its ends name the file and the key."""
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


def plain(text: str) -> str:
    r"""A text from a file or a file's name with its control characters as escapes.

    A terminal would obey them, and a line feed would end the line of a table or of an error.

    Args:
        text: Any text.

    Returns:
        One line; the escape character, for example, is written as ``\x1b``.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


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
