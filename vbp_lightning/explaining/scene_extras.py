"""Further files of ``task=scene``: quick-looks, road areas, tiles that contradict their labels."""

import json
from collections.abc import Sequence
from pathlib import Path

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.data.tiles.tiles_csv import TILE_FIELDS, tile_fields
from vbp_lightning.files import replacing
from vbp_lightning.plotting.display import RGB, outlined, to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid
from vbp_lightning.plotting.png import write_picture
from vbp_lightning.plotting.quick_look import quick_look
from vbp_lightning.scene_maps.areas import road_areas
from vbp_lightning.scene_maps.qgis_style import (
    style_path,
    write_mask_style,
    write_probability_style,
)
from vbp_lightning.scene_maps.scene_job import PERCENT, SceneJob
from vbp_lightning.scene_maps.tile_errors import ScoredTile, largest_errors
from vbp_lightning.scene_maps.views import probabilities_of, reduced_image, reduced_mask, reduction

_LONGEST = 1200
"""Pixels, the longer side of a scene in its quick-look."""

_HEADINGS = {
    Label.NON_ROAD: "labelled as non-road, highest P(road) first",
    Label.ROAD: "labelled as road (outlined), lowest P(road) first",
}


def write_styles(job: SceneJob, threshold: float, *, is_new: bool) -> list[Path]:
    """Writes the styles by which QGIS draws both maps of a scene, which must exist.

    Args:
        job: The job of the scene.
        threshold: P(road) from which a cell is drawn.
        is_new: Whether the maps are new; otherwise a style that is there, which may be the user's,
            is left.

    Returns:
        The styles.
    """
    styles = [style_path(each) for each in (job.probability_path, job.mask_path)]
    if is_new or not styles[0].exists():
        write_probability_style(job.probability_path, threshold)
    if is_new or not styles[1].exists():
        write_mask_style(job.mask_path, PERCENT)
    return styles


def write_quick_look(job: SceneJob, threshold: float, title: str, note: str) -> Path:
    """Draws a scene with both of its maps, which must exist, laid over it.

    Args:
        job: The job of the scene.
        threshold: P(road) whose contour is drawn.
        title: Appended to the name of the scene.
        note: Text below the maps.

    Returns:
        The picture.
    """
    factor = reduction(job.grid.shape, _LONGEST)
    image: RGB = to_rgb(reduced_image(job, factor)[None])[0]
    rows, cols = job.cells.cells
    start, step = job.cells.shift, job.cells.step
    picture = quick_look(
        image,
        job.grid.shape,
        probabilities_of(job.probability_path),
        (start, start + cols * step, start + rows * step, start),
        reduced_mask(job.mask_path, (image.shape[0], image.shape[1])),
        threshold,
        f"{job.name}: {title}",
        note,
    )
    return write_picture(job.settings.output / f"{job.name}_quick_look.png", picture)


def write_road_areas(path: Path, jobs: Sequence[SceneJob], threshold: float) -> list[str]:
    """Writes the road areas of all scenes as GeoJSON (RFC 7946).

    Args:
        path: The file to write or replace.
        jobs: Scenes whose maps exist.
        threshold: P(road) from which a window is classified as road.

    Returns:
        A line for each scene that is not georeferenced.
    """
    features, errors = [], []
    for job in jobs:
        if not job.grid.is_georeferenced or job.grid.crs is None:
            errors.append(
                f"{job.image}: is not georeferenced, so its roads cannot be written"
                " (roads=true): georeference it, or set roads=false"
            )
            continue
        transform = job.cells.transform(job.grid.transform)
        probability = probabilities_of(job.probability_path)
        for area in road_areas(probability, transform, job.grid.crs, threshold):
            properties = {
                "scene": job.name,
                "probability": round(area.probability, 4),
                "cells": area.cells,
            }
            features.append(
                {"type": "Feature", "geometry": area.geometry, "properties": properties}
            )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return errors


def write_hardest(
    output: Path, tiles: Sequence[ScoredTile], datamodule: RoadTileDataModule, count: int
) -> list[Path]:
    """Writes the tiles that contradict their labels most: a table and a sheet of thumbnails.

    Args:
        output: Folder of ``hardest_tiles.csv`` and ``hardest_tiles.png``.
        tiles: The tiles to choose from.
        datamodule: Source of pixels and road masks.
        count: Largest number of tiles of each label.

    Returns:
        Both files.
    """
    import pandas as pd

    margin = datamodule.context
    own = slice(margin, margin + datamodule.tile_size)
    rows, records = [], []
    for label, heading in _HEADINGS.items():
        chosen = largest_errors(tiles, label, count)
        places = [item.tile for item in chosen]
        pictures = to_rgb(datamodule.read_tiles(places).numpy())[:, own, own]
        road_masks = datamodule.read_road_masks(places).numpy()[:, own, own]
        captions = [
            f"P {item.probability:.2f} {place.scene} {place.row},{place.col}"
            for item, place in ((item, item.tile.tile) for item in chosen)
        ]
        rows.append(GridRow(heading, outlined(pictures, road_masks), captions))
        records += [(*tile_fields(item.tile), item.probability, item.error) for item in chosen]
    table = pd.DataFrame(records, columns=[*TILE_FIELDS, "probability", "error"])
    path = output / "hardest_tiles.csv"
    with replacing(path) as temporary:
        ordered = table.sort_values("error", ascending=False, kind="stable")
        ordered.to_csv(temporary, index=False, float_format="%.6f")
    title = f"Tiles that contradict their labels most, of {len(tiles)}"
    return [path, write_picture(output / "hardest_tiles.png", picture_grid(rows, title, side=144))]
