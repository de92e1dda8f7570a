"""The pages of a gallery, each one HTML file that holds its pictures and needs no server."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vbp_lightning.gallery.tiles import GalleryPictures, GalleryTiles

MOST_TILES = 2000
"""Of a page."""

MOST_BYTES = 25_000_000
"""Of a page."""


def write_gallery(
    folder: Path,
    name: str,
    title: str,
    tiles: GalleryTiles,
    read: Callable[[slice], GalleryPictures],
    *,
    threshold: float,
    metrics: Mapping[str, Mapping[str, float]],
    checkpoint: str,
) -> Iterator[Path]:
    """Writes ``NAME.html``, or for more tiles than a page holds ``NAME_1.html`` … and an index.

    Args:
        folder: Where the files are written or replaced.
        name: Of the files, without suffix.
        title: Shown above, such as the name of the run and the split.
        tiles: All tiles.
        read: Gives the pictures of consecutive tiles; called once for each ``MOST_TILES`` tiles, in
            order.
        threshold: P(road) from which a tile is called road.
        metrics: Metrics by name, by split.
        checkpoint: Digest of the checkpoint. Corrections that a browser keeps belong to this
            checkpoint and these tiles.

    Yields:
        Each file when it is finished; the index, ``NAME.html``, is the last.

    Raises:
        OSError: A file cannot be written; an older one is left as it was.
    """
    raise NotImplementedError
    yield folder / f"{name}.html"
