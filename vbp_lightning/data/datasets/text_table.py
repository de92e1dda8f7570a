"""CSV files as tables of text."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from vbp_lightning.data.datasets.listing import is_file
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.errors import reason

if TYPE_CHECKING:
    import pandas as pd


def read_text_table(path: Path, key: str, advice: str) -> "pd.DataFrame":
    """Reads a CSV file whose first line names the columns, with commas or semicolons between.

    Args:
        path: The file.
        key: The config key that names it, for messages.
        advice: What to do if it cannot be read, for messages.

    Returns:
        All fields as text; empty ones as the empty text.

    Raises:
        DataError: The file is missing, is no CSV, or has lines with more fields than columns.
    """
    import pandas as pd

    is_file(path, key)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            header = file.peek().partition(b"\n")[0]
            is_of_spreadsheet = b";" in header and b"," not in header  # where 0,5 is a number
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of lost fields
            table = pd.read_csv(
                file,
                sep=";" if is_of_spreadsheet else ",",
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                index_col=False,
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # others are ValueErrors
        raise DataError(
            f"{path}: cannot be read as a CSV ({reason(error)}) ({key}): {advice}"
        ) from error
    return table.fillna("")
