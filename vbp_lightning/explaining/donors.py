"""The tiles without road whose pixels replace an area of other tiles."""

from collections.abc import Container

from vbp_lightning.data.tiles.tile import Label, Tile
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import TileSource, evenly_spread

_POOL = 2000
"""Tiles without a label among which those without road are searched."""

_OTHERS = 256
"""Tiles of other scenes whose colours are compared."""


class Donors:
    """The tiles without road whose pixels replace an area of others.

    They are labelled as non-road, or, where labels are not known, have a P(road) below the
    threshold. A drawn area touches none of them.

    Args:
        source: All tiles.
        subject: The network.
        touched: Numbers of the tiles that are left out.
        count: How many are wanted for a tile.

    Raises:
        UserError: No tile is left.
    """

    def __init__(
        self, source: TileSource, subject: Subject, touched: Container[int], count: int
    ) -> None:
        self._source = source
        self._count = count
        self._side = subject.reader.side or 0
        free = [number for number in range(len(source.places)) if number not in touched]
        if source.known:
            labels = source.known
            free = [number for number in free if labels[number].label == Label.NON_ROAD]
        elif free:
            assert subject.classifier is not None
            free = [free[place] for place in evenly_spread(len(free), _POOL)]
            probabilities, _ = subject.probabilities(source.read(free), 1)
            below = probabilities < float(subject.classifier.threshold)
            free = [number for number, is_below in zip(free, below, strict=True) if is_below]
        if not free:
            raise UserError(
                "no tile without road is left whose pixels could replace the area: give more of the"
                " scene (input), or another split"
            )
        self._free = free
        self._spread = [free[place] for place in evenly_spread(len(free), _OTHERS)]
        self._colours = source.read(self._spread).mean((2, 3))

    def of(self, number: int) -> list[int]:
        """The nearest of the tile's scene; then those of other scenes whose colours are nearest.

        Args:
            number: The tile whose pixels are replaced.

        Returns:
            As many numbers of tiles as are wanted; some occur twice if there are fewer.

        Raises:
            UserError: There is none that does not overlap the tile.
        """
        tile = self._source.places[number]
        own = [each for each in self._free if self._source.places[each].scene == tile.scene]
        own = [each for each in own if self._distance(each, tile) >= self._side]
        own.sort(key=lambda each: self._distance(each, tile))
        if len(own) < self._count:
            colour = self._source.read([number]).mean((2, 3))
            ranked = (self._colours - colour).square().sum(1).argsort().tolist()
            others = [self._spread[rank] for rank in ranked]
            own += [each for each in others if self._source.places[each].scene != tile.scene]
        if not own:
            raise UserError(
                f"{tile.scene}: all tiles without road overlap the tile at {tile.row}, {tile.col}:"
                " give more of the scene (input), or another split"
            )
        return [own[place % len(own)] for place in range(self._count)]

    def _distance(self, number: int, tile: Tile) -> int:
        other = self._source.places[number]
        return max(abs(other.row - tile.row), abs(other.col - tile.col))
