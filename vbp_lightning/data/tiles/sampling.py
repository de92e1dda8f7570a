"""Which tiles an epoch trains on, and in which order."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vbp_lightning.data.tiles.tile import Label

_CELL_STREAM = 2
"""Beside the two labels' streams."""

_CELLS_AT_ONCE = 8


def drawn_tiles(
    positions: NDArray[np.int64], members: NDArray[np.int64], seed: int, stream: int
) -> NDArray[np.int64]:
    """Members at given positions of an endless row of shuffled passes over all of them.

    Every member comes once in each pass, so that over the epochs none is drawn oftener than any
    other by more than one.

    Args:
        positions: (N,) ascending, from 0 on.
        members: (M,) at least one.
        seed: Of the shuffling.
        stream: Tells independent rows of the same seed apart.

    Returns:
        (N,) members.
    """
    passes, places = np.divmod(positions, len(members))
    drawn = np.empty(len(positions), dtype=np.int64)
    for number in np.unique(passes):
        order = np.random.default_rng((seed, stream, int(number))).permutation(len(members))
        here = passes == number
        drawn[here] = members[order[places[here]]]
    return drawn


class BalancedBatches(Sampler[NDArray[np.int64]]):
    """Batches of keys, half of them road tiles and half non-road tiles.

    The tiles of an epoch follow from (seed, epoch) alone. A batch belongs to an optimizer step of
    all processes together: process ``rank`` of ``world_size`` gets its consecutive part, so that
    the parts put together are the batch of a single process.

    Args:
        labels: (N,) label of every training tile; both classes occur. Ignored ones are not drawn.
        batches: Batches an epoch.
        batch_size: Tiles of a batch over all processes, a multiple of ``world_size``.
        seed: Of the draw.
        epoch: Asked when an epoch begins. After a resume Lightning makes the iterator before it
            would announce the epoch, hence the trainer's own progress must answer.
        rank: Number of this process.
        world_size: Number of processes.
        cells: (N,) number of the neighbourhood of each training tile, where imagery is read from
            disk: an epoch goes through the neighbourhoods in random order, a few at a time, so
            that a decoded block serves many tiles. None for a free order.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        batches: int,
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        cells: NDArray[np.int64] | None = None,
    ) -> None:
        self.batches = batches
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = epoch
        self._cells = cells
        self._members = {
            label: np.flatnonzero(labels == label) for label in (Label.ROAD, Label.NON_ROAD)
        }

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Yields (n, 3) keys: epoch, index within the epoch, number of the tile."""
        epoch = self._epoch()
        tiles = self.epoch_tiles(epoch)
        share = self.batch_size // self.world_size
        for batch in range(self.batches):
            first = batch * self.batch_size + self.rank * share
            index = np.arange(first, first + share)
            yield np.stack([np.full(share, epoch), index, tiles[index]], axis=1)

    def epoch_tiles(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the tiles of an epoch, over all processes; even places hold road tiles.

        Args:
            epoch: From 0 on.

        Returns:
            (batches * batch_size,).
        """
        length = self.batches * self.batch_size
        tiles = np.empty(length, dtype=np.int64)
        # Classes alternate, so every batch (of an even size) is balanced too. An odd epoch length
        # gives the first class one more in each epoch.
        for offset, label in enumerate((Label.ROAD, Label.NON_ROAD)):
            count = len(range(offset, length, 2))
            positions = np.arange(epoch * count, (epoch + 1) * count)
            drawn = drawn_tiles(positions, self._members[label], self.seed, int(label))
            tiles[offset::2] = drawn if self._cells is None else self._gathered(drawn, epoch)
        return tiles

    def _gathered(self, tiles: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Tiles sorted by neighbourhoods, which come in an order drawn for the epoch."""
        assert self._cells is not None
        rng = np.random.default_rng((self.seed, _CELL_STREAM, epoch))
        turn = rng.permutation(int(self._cells.max()) + 1) // _CELLS_AT_ONCE
        return tiles[np.argsort(turn[self._cells[tiles]], kind="stable")]


class OrderedBatches(Sampler[NDArray[np.int64]]):
    """Consecutive batches of about equal size, taken by every process or shared among them.

    Args:
        length: Number of tiles.
        batch_size: Tiles of a batch over all processes.
        rank: Number of this process.
        world_size: Processes that share the tiles; 1 for all tiles in each.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._batches: list[NDArray[np.int64]] = []
        if length == 0:
            return
        shares = np.array_split(np.arange(length), world_size)
        # The same number of batches in every process: one that runs out would let the others
        # wait, since DDP exchanges the buffers in each forward pass.
        size = max(1, batch_size // world_size)
        self._batches = np.array_split(shares[rank], max(1, -(-len(shares[-1]) // size)))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Yields (n,) numbers of tiles."""
        return iter(self._batches)
