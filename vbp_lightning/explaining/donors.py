"""The tiles without road whose pixels replace an area of other tiles."""

from collections.abc import Container, Sequence

import torch

from vbp_lightning.data.tiles.tile import Label, Tile
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import TileSource, evenly_spread, in_batches

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
            read = in_batches(source, free, "Searching tiles without road")
            below = torch.cat([subject.probabilities(tiles, 1)[0] for tiles in read])
            below = below < float(subject.classifier.threshold)
            free = [number for number, is_below in zip(free, below, strict=True) if is_below]
        if not free:
            raise UserError(
                "no tile without road is left whose pixels could replace the area: give more of the"
                " scene (input), or another split"
            )
        self._free = free
        self._spread = [free[place] for place in evenly_spread(len(free), _OTHERS)]
        read = in_batches(source, self._spread, "Comparing colours")
        self._colours = torch.cat([tiles.mean((2, 3)) for tiles in read])

    def of_all(self, numbers: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        """The replacing tiles of several tiles, without those that have none.

        Args:
            numbers: The tiles whose pixels are replaced.

        Returns:
            Those that have replacing tiles, and these of each. A line tells how many have none.

        Raises:
            UserError: None of them has any.
        """
        found = {number: self._of(number) for number in numbers}
        having = [number for number in numbers if found[number]]
        if not having:
            raise UserError(
                "all tiles without road overlap those whose pixels are to be replaced: give more of"
                " the scene (input), or another split"
            )
        if left_out := len(numbers) - len(having):
            print(f"{left_out} of {len(numbers)} tiles are left out: all without road overlap them")
        return having, [found[number] for number in having]

    def _of(self, number: int) -> list[int]:
        """The nearest of the tile's scene; then those of other scenes whose colours are nearest.

        As many as are wanted; some occur twice if there are fewer, and there may be none.
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
            return []
        return [own[place % len(own)] for place in range(self._count)]

    def _distance(self, number: int, tile: Tile) -> int:
        other = self._source.places[number]
        return max(abs(other.row - tile.row), abs(other.col - tile.col))
