"""Checkpoints of untrained classifiers."""

import torch


def saved(path, model):
    """Writes what Lightning's checkpoint would hold for ``load_from_checkpoint``; the path."""
    torch.save(
        {
            "state_dict": model.state_dict(),
            "hyper_parameters": dict(model.hparams),
            "pytorch-lightning_version": "2.6.0",
        },
        path,
    )
    return path
