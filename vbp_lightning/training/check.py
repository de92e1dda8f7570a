"""``check=true``: the contents and the errors of a data set, before training."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import SPLITS, DataError, VectorLabels
from vbp_lightning.data.imagery.extent import ground_sampling_distance
from vbp_lightning.data.imagery.vector_files import class_lines
from vbp_lightning.data.tiles.scan import Scan
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.errors import plain
from vbp_lightning.plotting.display import RGB, outlined, to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid
from vbp_lightning.plotting.png import write_picture
from vbp_lightning.training.data import batch_error
from vbp_lightning.training.folder import SPLITS_FILE
from vbp_lightning.training.report import TILES_FILE, tile_table

SHEET_FILE = "contact_sheet.png"

_TILES_A_LABEL = 16


def check_data(datamodule: RoadTileDataModule, folder: Path, seed: int) -> None:
    """Reads all data, prints a report, and draws a contact sheet of random tiles.

    Args:
        datamodule: Not set up yet.
        folder: The folder of the sheet, ``tiles.csv`` and ``splits.csv``.
        seed: Seed of the choice of tiles.

    Raises:
        DataError: Training could not run; one line for each error, after the report.
    """
    scan = datamodule.scan()
    console = Console(width=max(100, Console().width), soft_wrap=False)
    if scan.infos:
        scenes = Counter(s for parts in scan.regions.values() for s in {p.split for p in parts})
        table = tile_table({s: {"scenes": scenes[s], **datamodule.counts[s]} for s in SPLITS})
        table.title = "Tiles"
        table.caption = "ignored: too little road; dropped: too little imagery"
        console.print(table)
        console.print(_band_table(scan, datamodule))
        lines = [*_scene_lines(scan), *datamodule.correction_lines]
        print(*map(plain, lines), sep="\n")
        datamodule.write_tiles(folder / TILES_FILE)
        datamodule.write_splits(folder / SPLITS_FILE)
        print(folder / TILES_FILE, folder / SPLITS_FILE, sep="\n")
    if scan.store is not None:
        print(write_picture(folder / SHEET_FILE, draw_sheet(datamodule, scan, seed)))
    for line in scan.warnings:
        print(f"Note: {plain(line)}")
    too_large = batch_error(datamodule) if scan.statistics is not None else None
    if too_large:
        print(f"Note: {too_large}")
    if scan.errors:
        raise DataError(*scan.errors)
    print(f"Training can run{' with a smaller data.batch_size' * bool(too_large)}.")


def _band_table(scan: Scan, datamodule: RoadTileDataModule) -> Table:
    names = ("band", "least", "2 %", "median", "98 %", "largest", "network's 0", "network's 1")
    table = Table(*names, title="Bands")
    statistics = scan.statistics
    if statistics is None:
        return table
    columns = [statistics.percentile(percent) for percent in (0, 2, 50, 98, 100)]
    columns += [datamodule.mean, datamodule.std]
    for name, *values in zip(scan.infos[0].band_names, *columns, strict=True):
        table.add_row(Text(name), *(f"{value:.6g}" for value in values))
    table.caption = f"{scan.infos[0].dtype}, valid pixels of the training split"
    return table


def _scene_lines(scan: Scan) -> list[str]:
    """One line for each fact about the scenes."""
    infos = scan.infos
    pixels = sum(info.grid.height * info.grid.width for info in infos)
    valid = sum(item.valid_pixels for item in scan.scanned)
    road = sum(item.road_pixels for item in scan.scanned)
    sizes = Counter(f"{info.grid.width} × {info.grid.height}" for info in infos)
    systems = Counter(
        ":".join(info.grid.crs.to_authority() or ("a CRS without a code",))
        if info.grid.crs is not None
        else "none"
        for info in infos
    )
    spacings = [axis for info in infos for axis in ground_sampling_distance(info.grid) or ()]
    lines = [
        f"Scenes: {len(infos)} of {scan.found} can be read, {pixels / 1e6:,.1f} million pixels",
        f"Sizes in px: {_listed(sizes)}",
        f"CRS: {_listed(systems)}",
    ]
    if spacings:
        low, high = min(spacings), max(spacings)
        span = " to ".join(dict.fromkeys([f"{low:.3g}", f"{high:.3g}"]))
        equal = " (data.resolution makes it equal)" if high > 1.2 * low else ""
        lines.append(f"Ground sampling distance: {span} m{equal}")
    lines.append(
        f"Pixels without imagery or label: {1 - valid / max(pixels, 1):.2%}; "
        f"road among the others: {road / max(valid, 1):.2%}"
    )
    vectors = [item.vectors for item in scan.scanned if item.vectors is not None]
    labels = next((info.scene.labels for info in infos if vectors), None)
    if isinstance(labels, VectorLabels) and labels.classes is not None:
        lines += class_lines(vectors, labels.classes)
    held = "read as needed" if scan.store and scan.store.is_streamed else "held in memory"
    lines.append(f"Imagery: {sum(info.nbytes for info in infos) / 2**30:.2f} GiB, {held}")
    return lines


def _share(share: float) -> str:
    """A road share in percent; a share above 0 is never printed as 0."""
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def _listed(counts: Counter[str]) -> str:
    """The five most frequent values with their numbers."""
    shown = [f"{name} ({count})" for name, count in counts.most_common(5)]
    return ", ".join(shown + [f"and {len(counts) - 5} more"] * (len(counts) > 5))


def draw_sheet(datamodule: RoadTileDataModule, scan: Scan, seed: int) -> RGB:
    """The contact sheet of a data set: random tiles of each label, over all splits.

    Args:
        datamodule: Reads the tiles.
        scan: The result of its ``scan``.
        seed: Of the choice of tiles.
    """
    rng = np.random.default_rng(seed)
    chosen: dict[Label, list[LabelledTile]] = {}
    totals = {}
    for label in (Label.ROAD, Label.NON_ROAD, Label.IGNORED):
        places = [
            (split, int(place))
            for split in SPLITS
            for place in np.flatnonzero(scan.tiles[split].labels == label)
        ]
        drawn = sorted(rng.permutation(len(places))[:_TILES_A_LABEL].tolist())
        chosen[label] = [scan.tiles[places[i][0]][places[i][1]] for i in drawn]
        totals[label] = len(places)
    # one stretch for all rows, so that road and non-road tiles can be compared
    every = [tile for tiles in chosen.values() for tile in tiles]
    pictures = iter(_pictures(datamodule.read_tiles(every).numpy(), scan))
    rows = [
        GridRow(
            f"{label.name.lower().replace('_', '-')}: {len(tiles)} of {totals[label]}",
            outlined(islice(pictures, len(tiles)), datamodule.read_road_masks(tiles).numpy()),
            [f"{tile.split} {_share(tile.share)} {tile.tile.scene}" for tile in tiles],
        )
        for label, tiles in chosen.items()
    ]
    if constant := _constant_row(datamodule, scan):
        rows.append(constant)
    title = "Random tiles; road pixels of the labels are outlined"
    return picture_grid(rows, title, side=144)


def _constant_row(datamodule: RoadTileDataModule, scan: Scan) -> GridRow | None:
    """Tiles at the largest areas of one value, with these outlined; None if there are none."""
    areas = [(item, area) for item in scan.scanned for area in item.constant]
    areas = sorted(areas, key=lambda pair: -pair[1].largest)[:_TILES_A_LABEL]
    if not areas:
        return None
    size = datamodule.tile_size
    places = [
        [
            min(max(0, centre - size // 2), side - size)
            for centre, side in zip(area.place, item.info.grid.shape, strict=True)
        ]
        for item, area in areas
    ]
    tiles = [
        Tile(item.info.scene.name, row, col)
        for (item, _), (row, col) in zip(areas, places, strict=True)
    ]
    pixels = datamodule.read_tiles(tiles).numpy()
    values = np.array([area.value for _, area in areas], np.float32)
    same = (pixels == values[:, :, None, None]).all(axis=1)
    captions = [
        f"{area.pixels / (item.info.grid.height * item.info.grid.width):.1%} of "
        f"{item.info.scene.name}"
        for item, area in areas
    ]
    heading = "Areas of one value, outlined: no imagery?"
    return GridRow(heading, outlined(_pictures(pixels, scan), same), captions)


def _pictures(tiles: NDArray[np.float32], scan: Scan) -> RGB:
    """Pictures of tiles (N, C, H, W); areas of one value, such as -9999, do not stretch them."""
    imagery = tiles.copy()
    for value in {area.value for item in scan.scanned for area in item.constant}:
        same = (tiles == np.array(value, np.float32)[:, None, None]).all(axis=1, keepdims=True)
        imagery[np.broadcast_to(same, tiles.shape)] = np.nan
    return to_rgb(tiles, reference=imagery)
