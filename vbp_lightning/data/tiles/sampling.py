"""The tiles that an epoch trains on, and their order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vbp_lightning.data.tiles.tile import Label

_CELL_STREAM = 2
"""Random stream of the order of neighbourhoods; the streams 0 and 1 belong to the two labels."""

_CELLS_AT_ONCE = 8
"""Number of neighbourhoods whose tiles are mixed."""


def drawn_tiles(
    positions: NDArray[np.int64], members: NDArray[np.int64], seed: int, stream: int
) -> NDArray[np.int64]:
    """Members at given positions of an endless sequence of shuffled passes over all of them.

    Every member occurs once in each pass, so that over the epochs the numbers of times that any two
    members are drawn differ by at most one.

    Args:
        positions: (N,) ascending, from 0 on.
        members: (M,) at least one.
        seed: Seed of the shuffling.
        stream: Different streams of the same seed are independent.

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


@dataclass(frozen=True, eq=False)
class BalancedBatches(Sampler[NDArray[np.int64]]):
    """Batches of keys, half of them road tiles and half non-road tiles.

    The tiles of an epoch depend on (seed, epoch) alone. All processes share a batch: process
    ``rank`` of ``world_size`` gets a consecutive part of it, and the parts together are the batch
    that a single process would get.

    Args:
        labels: (N,) label of every training tile; both classes occur. Ignored ones are not drawn.
        batches: Batches an epoch.
        batch_size: Tiles of a batch over all processes, a multiple of ``world_size``.
        seed: Seed of the draw.
        epoch: Returns the epoch to draw; called when the first batch of an iterator is drawn. After
            a resume Lightning makes the iterator before it would call ``set_epoch``, so the epoch
            is read from the trainer.
        rank: Number of this process.
        world_size: Number of processes.
        cells: (N,) number of the neighbourhood of each training tile, if imagery is read from
            disk: an epoch goes through the neighbourhoods in random order, in groups of a few, so
            that each decoded block is used for many tiles. None for any order.
        partners: Whether a key is followed by those of four partners, all of the same epoch.
    """

    labels: NDArray[np.int64]
    batches: int
    batch_size: int
    seed: int
    epoch: Callable[[], int]
    rank: int = 0
    world_size: int = 1
    cells: NDArray[np.int64] | None = None
    partners: bool = False

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Yields (n, 3) keys: epoch, index within the epoch, number of the tile.

        With partners (5, n, 3): the tile, the road and the non-road tile of its pair, and those of
        the next pair; the last pair is followed by the first one.
        """
        epoch = self.epoch()
        tiles = self.epoch_tiles(epoch)
        share = self.batch_size // self.world_size
        for batch in range(self.batches):
            first = batch * self.batch_size + self.rank * share
            index = np.arange(first, first + share)
            if self.partners:
                pair = index - index % 2
                others = np.stack([pair, pair + 1, pair + 2, pair + 3])
                index = np.stack([index, *(others % (len(tiles) - len(tiles) % 2))])
            yield np.stack([np.full_like(index, epoch), index, tiles[index]], axis=-1)

    def epoch_tiles(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the tiles of an epoch, over all processes; even places hold road tiles.

        Args:
            epoch: From 0 on.

        Returns:
            (batches * batch_size,).
        """
        length = self.batches * self.batch_size
        tiles = np.empty(length, dtype=np.int64)
        # Classes alternate, so every batch of an even size is balanced. If the length of an epoch
        # is odd, it holds one more tile of the first class.
        for offset, label in enumerate((Label.ROAD, Label.NON_ROAD)):
            count = len(range(offset, length, 2))
            positions = np.arange(epoch * count, (epoch + 1) * count)
            drawn = drawn_tiles(
                positions, np.flatnonzero(self.labels == label), self.seed, int(label)
            )
            tiles[offset::2] = drawn if self.cells is None else self._gathered(drawn, epoch)
        return tiles

    def _gathered(self, tiles: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Tiles sorted by neighbourhood, in an order of neighbourhoods drawn for the epoch."""
        assert self.cells is not None
        rng = np.random.default_rng((self.seed, _CELL_STREAM, epoch))
        group = rng.permutation(int(self.cells.max()) + 1) // _CELLS_AT_ONCE
        return tiles[np.argsort(group[self.cells[tiles]], kind="stable")]


class OrderedBatches(Sampler[NDArray[np.int64]]):
    """Consecutive batches of about equal size, the same in every process or divided among them.

    Args:
        length: Number of tiles.
        batch_size: Tiles of a batch over all processes.
        rank: Number of this process.
        world_size: Number of processes among which the tiles are divided; 1 gives each process
            all tiles.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._batches: list[NDArray[np.int64]] = []
        if length == 0:
            return
        shares = np.array_split(np.arange(length), world_size)
        # The same number of batches in every process: DDP exchanges buffers in each forward pass,
        # so the other processes would wait forever for one that has no batch left.
        size = max(1, batch_size // world_size)
        self._batches = np.array_split(shares[rank], max(1, -(-len(shares[-1]) // size)))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Yields (n,) numbers of tiles."""
        return iter(self._batches)
