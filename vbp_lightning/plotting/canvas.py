"""A white page for pictures and text, used for panels and sheets instead of matplotlib axes.

Laying out sixteen tiles on axes takes matplotlib most of a second; pasting arrays and drawing some
forty lines of text with Pillow takes a hundredth of that.
"""

import math
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vbp_lightning.errors import plain
from vbp_lightning.plotting.display import RGB

Colour = tuple[int, int, int]

BLACK: Colour = (0, 0, 0)
GREY: Colour = (80, 80, 80)
WHITE: Colour = (255, 255, 255)
VERMILION: Colour = (213, 94, 0)  # Okabe and Ito 2008: distinct under each colour blindness


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns DejaVu Sans as matplotlib ships it, so that every machine draws the same panel.

    Args:
        size: Height of an em in pixels.
        bold: Whether the type is bold.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    # Pillow would use libraqm if it is installed, which is slower and gives other positions
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def wrapped(text: str, size: int, bold: bool, room: int) -> list[str]:
    """Breaks a text into lines at its spaces; a word that is too long is put on a separate line.

    Args:
        text: A paragraph.
        size: Height of an em in pixels.
        bold: Whether the type is bold.
        room: Greatest length of a line in pixels.
    """
    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if font(size, bold).getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=128)
def _line(text: str, size: int, bold: bool) -> Image.Image:
    """Draws a line in grey on black; cached, since most lines recur at every epoch."""
    face = font(size, bold)
    coverage = Image.new("L", (math.ceil(face.getlength(text)), sum(face.getmetrics())))
    ImageDraw.Draw(coverage).text((0, 0), text, fill=255, font=face)
    return coverage


class Canvas:
    """A white RGB page in pixels; x to the right, y downwards from the upper-left corner.

    Args:
        width: Width in pixels.
        height: Height in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.image = Image.new("RGB", (width, height), WHITE)
        self._draw = ImageDraw.Draw(self.image)

    def picture(self, x: int, y: int, pixels: RGB, size: tuple[int, int] | None = None) -> None:
        """Pastes ``(h, w, 3)`` uint8, resized to ``size`` (width, height), nearest neighbour."""
        image = Image.fromarray(pixels)
        if size is not None and size != image.size:
            image = image.resize(size, Image.Resampling.NEAREST)
        self.image.paste(image, (x, y))

    def text(
        self,
        x: int,
        y: int,
        text: str,
        size: int,
        *,
        bold: bool = False,
        colour: Colour = BLACK,
        from_right: bool = False,
        room: int | None = None,
    ) -> None:
        """Writes one line, in smaller type if it is too long.

        Args:
            x: Left end of the line in pixels, or its right end with ``from_right``.
            y: Upper edge of the line in pixels.
            text: One line.
            size: Height of an em in pixels.
            bold: Whether the type is bold.
            colour: Red, green, blue.
            from_right: Whether the line ends at ``x`` instead of beginning there.
            room: Greatest length in pixels; by default, the distance to the edge of the page.
        """
        text = plain(text)
        if room is None:
            room = x if from_right else self.width - x
        while size > 8 and font(size, bold).getlength(text) > room:
            size -= 1
        line = _line(text, size, bold)
        self.image.paste(colour, (x - line.width if from_right else x, y), line)

    def frame(self, x: int, y: int, width: int, height: int, thickness: int) -> None:
        """Draws the frame of a wrongly classified tile, inside the given box."""
        self._draw.rectangle(
            (x, y, x + width - 1, y + height - 1), outline=VERMILION, width=thickness
        )

    def badge(self, right: int, y: int, text: str, size: int) -> None:
        """Writes a word in white on a box of the frame's colour; the box ends at ``right``."""
        width = round(font(size, True).getlength(text)) + size // 2
        self._draw.rectangle((right - width, y, right - 1, y + round(1.2 * size)), fill=VERMILION)
        self.text(right - size // 4, y, text, size, bold=True, colour=WHITE, from_right=True)

    def pixels(self) -> RGB:
        """Returns the page as ``(H, W, 3)`` uint8."""
        return np.asarray(self.image).copy()
