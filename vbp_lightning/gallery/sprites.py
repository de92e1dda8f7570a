"""Sprite sheets: many small pictures of one size in few encoded ones."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHEET_SIDE = 1024
"""Largest width and height of a sheet in pixels. Safari draws no canvas of 16.8 million pixels."""

_BLOCK = 16
"""Side of the blocks in which WebP compresses colours, in pixels: each image has its own blocks."""


def sprite_sheets(pictures: NDArray[np.uint8], encoding: dict[str, Any]) -> dict[str, Any]:
    """Lays pictures beside each other, row by row, and encodes the sheets.

    Args:
        pictures: ``(n, h, w)`` grey or ``(n, h, w, 3)``. Those that are larger than a sheet are
            reduced to every second, third … pixel.
        encoding: Arguments of Pillow's ``save``: ``format`` and its options.

    Returns:
        ``width`` and ``height`` of a picture, the distances ``step_x`` and ``step_y`` between
        pictures, ``columns`` and ``rows`` of a full sheet, and the encoded ``sheets`` in base64.
    """
    from PIL import Image

    every = -(-max(pictures.shape[1:3]) // SHEET_SIDE)
    pictures = pictures[:, ::every, ::every]
    height, width = pictures.shape[1:3]
    block = _BLOCK if pictures.ndim == 4 else 1
    step_y, step_x = -(-height // block) * block, -(-width // block) * block
    colours = [(0, 0)] * (pictures.ndim - 3)
    cells = np.pad(
        pictures, [(0, 0), (0, step_y - height), (0, step_x - width), *colours], mode="edge"
    )
    columns, rows = SHEET_SIDE // step_x, SHEET_SIDE // step_y
    sheets = []
    for start in range(0, len(cells), columns * rows):
        own = cells[start : start + columns * rows]
        used = -(-len(own) // columns)
        sheet = np.zeros((used * columns, *own.shape[1:]), np.uint8)
        sheet[: len(own)] = own
        sheet = sheet.reshape(used, columns, *own.shape[1:]).swapaxes(1, 2)
        sheet = sheet.reshape(used * step_y, columns * step_x, *own.shape[3:])
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, **encoding)
        sheets.append(base64.b64encode(file.getvalue()).decode())
    return {
        "width": width,
        "height": height,
        "step_x": step_x,
        "step_y": step_y,
        "columns": columns,
        "rows": rows,
        "sheets": sheets,
    }
