"""The colours of a scene, which has one season, one soil and one age of paving."""

from dataclasses import dataclass

import numpy as np

from vbp_lightning.data.synthetic.painting import Colour, colour, varied


def _between(rng: np.random.Generator, one: Colour, other: Colour) -> Colour:
    share = np.float32(rng.random())
    return one + share * (other - one)


@dataclass(frozen=True)
class Palette:
    """Reflectances, ``(3,)`` each, about 0 to 1."""

    grass: Colour
    crop: Colour
    stubble: Colour
    soil: Colour
    leaves: Colour
    water: Colour
    asphalt: Colour
    concrete: Colour
    ballast: Colour

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Palette":
        """Draws the colours of one scene."""
        return cls(
            grass=_between(rng, colour(0.30, 0.37, 0.20), colour(0.47, 0.45, 0.29)),
            crop=_between(rng, colour(0.22, 0.34, 0.15), colour(0.38, 0.45, 0.22)),
            stubble=_between(rng, colour(0.58, 0.51, 0.34), colour(0.68, 0.62, 0.45)),
            soil=_between(rng, colour(0.38, 0.29, 0.21), colour(0.56, 0.47, 0.37)),
            leaves=_between(rng, colour(0.15, 0.23, 0.11), colour(0.29, 0.31, 0.14)),
            water=_between(rng, colour(0.12, 0.20, 0.21), colour(0.29, 0.32, 0.22)),
            asphalt=_between(rng, colour(0.30, 0.30, 0.31), colour(0.47, 0.46, 0.44)),
            concrete=_between(rng, colour(0.57, 0.55, 0.51), colour(0.68, 0.66, 0.62)),
            ballast=_between(rng, colour(0.36, 0.33, 0.30), colour(0.50, 0.46, 0.42)),
        )

    def paving(self, rng: np.random.Generator) -> Colour:
        """Draws a colour of asphalt, for roads, car parks, yards and flat roofs alike."""
        return varied(rng, self.asphalt, 0.14, 0.012)

    def dirt(self, rng: np.random.Generator) -> Colour:
        """Draws a colour of bare soil, for dirt roads, strips and bare patches alike."""
        return varied(rng, self.soil * np.float32(1.22), 0.10, 0.025)
