"""What the folders and columns of a data set call the splits."""

from collections.abc import Mapping

from vbp_lightning.data.datasets.scene import SPLITS, DataError, Split

_USUAL: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_names(given: Mapping[str, str] | None) -> dict[str, Split]:
    """The split that each name stands for.

    Args:
        given: The user's own, or None for the usual names.

    Raises:
        DataError: A value is not a split.
    """
    if given is None:
        return dict(_USUAL)
    names: dict[str, Split] = {}
    lines = []
    for name, split in given.items():
        known = next((one for one in SPLITS if one == split), None)
        if known is None:
            lines.append(f"data.source.splits.{name}={split}: must be one of {', '.join(SPLITS)}")
        else:
            names[str(name)] = known
    if lines:
        raise DataError(*lines)
    return names
