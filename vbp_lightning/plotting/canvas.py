"""A white page with text on it: what panels are drawn on instead of matplotlib axes.

Laying out sixteen tiles on axes costs matplotlib most of a second; pasting arrays and drawing some
forty lines of text with Pillow costs a hundredth of that.
"""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vbp_lightning.plotting.display import RGB

Colour = tuple[int, int, int]

BLACK: Colour = (0, 0, 0)
GREY: Colour = (80, 80, 80)
WHITE: Colour = (255, 255, 255)
VERMILION: Colour = (213, 94, 0)  # Okabe and Ito 2008: distinct under each colour blindness


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it, so that every machine draws the same panel.

    Args:
        size: Height of an em in pixels.
        bold: The bold face.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    # where Pillow finds libraqm it would lay text out by that, slower and a little different
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


class Canvas:
    """A white RGB page in pixels; x to the right, y downwards from the upper-left corner.

    Args:
        width: Pixels.
        height: Pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.image = Image.new("RGB", (width, height), WHITE)
        self._draw = ImageDraw.Draw(self.image)

    def picture(self, x: int, y: int, pixels: RGB, size: tuple[int, int] | None = None) -> None:
        """Pastes ``(h, w, 3)`` uint8, resized by nearest to ``size`` (width, height)."""
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
        anchor: str = "la",
        room: int | None = None,
    ) -> None:
        """Writes one line; a line that is too long is set smaller until it fits.

        Args:
            x: Pixels.
            y: Pixels.
            text: One line.
            size: Height of an em in pixels.
            bold: The bold face.
            colour: Red, green, blue.
            anchor: Which point of the line lies on (x, y), as Pillow names it: ``la`` left and
                ascender, ``ra`` right and ascender.
            room: Greatest length in pixels; by default up to the edge of the page.
        """
        if room is None:
            room = self.width - x if anchor[0] == "l" else x
        while size > 8 and font(size, bold).getlength(text) > room:
            size -= 1
        self._draw.text((x, y), text, fill=colour, font=font(size, bold), anchor=anchor)

    def frame(self, x: int, y: int, width: int, height: int, thickness: int) -> None:
        """Draws the frame of a wrong tile; the thickness lies inside the given box."""
        self._draw.rectangle(
            (x, y, x + width - 1, y + height - 1), outline=VERMILION, width=thickness
        )

    def badge(self, right: int, y: int, text: str, size: int) -> None:
        """Writes a word in white on the colour of the frame, its box ending at ``right``."""
        width = round(font(size, True).getlength(text)) + size // 2
        self._draw.rectangle((right - width, y, right - 1, y + round(1.2 * size)), fill=VERMILION)
        self.text(right - size // 4, y, text, size, bold=True, colour=WHITE, anchor="ra")

    def pixels(self) -> RGB:
        """The page as ``(H, W, 3)`` uint8."""
        return np.asarray(self.image).copy()
