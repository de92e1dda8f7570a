"""The canvas of a scene: reflectance, height above ground and occupied pixels."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vbp_lightning.data.synthetic.noise import smooth_noise
from vbp_lightning.data.synthetic.shapes import Area, Array, Grid, Mask, Rectangle, coverage

Colour = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """The arrays that all painting functions change.

    Args:
        grid: Its pixels.
        grain: ``(size, size)`` fine texture of unit variance for all surfaces.
        rgb: ``(size, size, 3)`` reflectance, about 0 to 1.
        height: ``(size, size)`` metres above ground of roofs and crowns.
        taken: ``(size, size)`` pixels on which nothing more may be built.
    """

    grid: Grid
    grain: Array
    rgb: Array = field(repr=False)
    height: Array = field(repr=False)
    taken: Mask = field(repr=False)

    @classmethod
    def empty(cls, grid: Grid, rng: np.random.Generator) -> "Canvas":
        """A black canvas with newly drawn grain."""
        shape = (grid.size, grid.size)
        white = rng.standard_normal(shape, dtype=np.float32)
        grain = (0.7 * white + 0.7 * smooth_noise(rng, grid, 2.5)).astype(np.float32)
        return cls(
            grid,
            grain,
            np.zeros((*shape, 3), dtype=np.float32),
            np.zeros(shape, dtype=np.float32),
            np.zeros(shape, dtype=np.bool_),
        )

    def paint(self, area: Area, alpha: Array, colour: Colour) -> None:
        """Lays a colour, ``(3,)`` or ``(*area, 3)``, over an area with opacity ``(*area)``."""
        below = self.rgb[area]
        self.rgb[area] = below + alpha[..., None] * (colour - below)

    def textured(self, area: Area, colour: Colour, contrast: float) -> Colour:
        """A colour ``(3,)`` with the grain of the area, ``(*area, 3)``."""
        return colour * (1 + np.float32(contrast) * self.grain[area])[..., None]

    def is_free(self, shape: Rectangle, margin: float = 0.0) -> bool:
        """Whether a rectangle widened by ``margin`` metres touches no occupied pixel."""
        window, u, v = shape.local(self.grid, margin)
        if u.size == 0:
            return True
        return not bool((self.taken[window] & (shape.depth(u, v) > -margin)).any())

    def take(self, shape: Rectangle, margin: float = 0.0) -> None:
        """Marks a rectangle widened by ``margin`` metres as occupied."""
        window, u, v = shape.local(self.grid, margin)
        self.taken[window] |= shape.depth(u, v) > -margin

    def slab(self, shape: Rectangle, colour: Colour, contrast: float) -> None:
        """Paints a rectangle of one textured colour."""
        window, u, v = shape.local(self.grid)
        alpha = coverage(shape.depth(u, v), self.grid.pixel)
        self.paint(window, alpha, self.textured(window, colour, contrast))


def colour(*rgb: float) -> Colour:
    """A colour as an array (3,)."""
    return np.asarray(rgb, dtype=np.float32)


def varied(rng: np.random.Generator, base: Colour, light: float, hue: float) -> Colour:
    """A colour near ``base``: its brightness varied by ``light``, each band by ``hue`` (shares)."""
    factor = np.exp(rng.normal(0, light)) * np.exp(rng.normal(0, hue, 3))
    return np.asarray(np.clip(base * factor, 0.02, 0.95), dtype=np.float32)
