"""Starting from the weights of another run."""

from pathlib import Path

import torch

from vbp_lightning.models.checkpoint import CheckpointError, read_checkpoint
from vbp_lightning.models.classifier import RoadClassifier
from vbp_lightning.models.custom_network import first_convolution

_OWN = (*(f"network.normalize.{name}" for name in ("mean", "std", "low", "high")), "threshold")


@torch.no_grad()
def initialize_from(model: RoadClassifier, path: Path) -> str:
    """Copies the weights of a checkpoint into a new classifier, in place.

    The normalisation of the new data is kept. A first convolution for another number of bands keeps
    its initial weights.

    Args:
        model: The new classifier.
        path: Checkpoint of a run with the same network.

    Returns:
        One line that states which weights were copied.

    Raises:
        CheckpointError: The file cannot be read or belongs to another network.
    """
    found = read_checkpoint(path, config_key="init_from")["state_dict"]
    wanted = model.state_dict()
    fresh = set(_OWN)
    layer = first_convolution(model)
    name_of_first = f"{layer[0]}.weight" if layer is not None else ""
    first = found.get(name_of_first)
    bands_before = first.shape[1] if first is not None and first.ndim > 1 else None
    bands_now = layer[1].in_channels if layer is not None else None
    if bands_before != bands_now:
        fresh.add(name_of_first)
    misfits = sorted(
        name
        for name in (wanted.keys() | found.keys()) - fresh
        if name not in wanted or name not in found or wanted[name].shape != found[name].shape
    )
    if misfits or (layer is not None and bands_before is None):
        raise CheckpointError(
            f"{path}: belongs to another network (init_from, model): {', '.join(misfits[:4])}"
            " do not fit; choose model and model.head as in that run"
        )
    model.load_state_dict({name: wanted[name] if name in fresh else found[name] for name in wanted})
    if name_of_first in fresh:
        return (
            f"starting from {path}, except for the first convolution: it had {bands_before} bands,"
            f" the data has {bands_now}, so it keeps its initial weights"
        )
    return f"starting from {path}"
