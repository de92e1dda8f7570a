"""Errors about options that show only when a network is known."""

from collections.abc import Iterator
from contextlib import contextmanager

from vbp_lightning.errors import UserError, one_line


@contextmanager
def option_as_user_error() -> Iterator[None]:
    """Converts a ``ValueError`` about an option to one line for the user.

    Raises:
        UserError: The context raised a ``ValueError``.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(one_line(error)) from error
