"""What the settings of a data module may be."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any


def setting_faults(settings: Mapping[str, Any]) -> list[str]:
    """Settings of a data module that make no sense, one line each.

    Args:
        settings: The arguments of ``RoadTileDataModule`` other than ``source`` and ``root``, each
            of the kind that it should be.
    """
    at = SimpleNamespace(**settings)
    least = {"tile_size": 1, "context": 0, "stride": 1, "train_stride": 1, "batch_size": 1}
    least |= {"num_workers": 0, "seed": 0, "split_seed": 0, "mask_threshold": 0}
    lines = [
        f"data.{name}={getattr(at, name)}: must be at least {value}"
        for name, value in least.items()
        if getattr(at, name) < value
    ]
    if at.tiles_per_epoch is not None and at.tiles_per_epoch < 1:
        lines.append(f"data.tiles_per_epoch={at.tiles_per_epoch}: must be at least 1 or null")
    if not 0 < at.road_share <= 1:
        lines.append(f"data.road_share={at.road_share}: must be in (0, 1]")
    if not 0 <= at.max_invalid <= 1:
        lines.append(f"data.max_invalid={at.max_invalid}: must be in [0, 1]")
    if not (
        at.val_fraction >= 0 and at.test_fraction >= 0 and at.val_fraction + at.test_fraction < 1
    ):
        lines.append(
            f"data.val_fraction={at.val_fraction}, data.test_fraction={at.test_fraction}: "
            "must not be negative and leave something to train on"
        )
    if at.split_by not in ("scene", "block"):
        lines.append(f"data.split_by={at.split_by}: must be scene or block")
    if at.block_unit not in ("m", "px"):
        lines.append(f"data.block_unit={at.block_unit}: must be m or px")
    if at.block_unit == "px" and at.block_size < at.tile_size + at.stride - 1:
        lines.append(
            f"data.block_size={at.block_size}: must be at least data.tile_size + data.stride"
            f" - 1 = {at.tile_size + at.stride - 1} px, so that each block holds a tile"
        )
    jitter = at.augment.jitter if at.augment else 0
    reach = jitter + 2 * at.context
    if at.block_margin is not None and at.block_margin < reach:
        seen = f" + 2 · data.context = {reach}" if at.context else f"={jitter}"
        lines.append(
            f"data.block_margin={at.block_margin}: must be at least data.augment.jitter{seen},"
            " by which training tiles move, or null"
        )
    for name in ("resolution", "block_size", "memory"):
        value = getattr(at, name)
        if value is not None and not value > 0:
            lines.append(f"data.{name}={value}: must be above 0")
    if at.stretch is not None and not (
        len(at.stretch) == 2 and 0 <= at.stretch[0] < at.stretch[1] <= 100
    ):
        lines.append(f"data.stretch={at.stretch}: give two percentiles, as in [2, 98], or null")
    if at.bands is not None and not at.bands:
        lines.append("data.bands=[]: name at least one band, or null for all")
    return lines + (at.augment.errors() if at.augment else [])
