"""Batches of several datasets, in a small module that spawned workers import quickly."""


class Several:
    """A dataset whose batches are lists with one batch of each dataset."""

    def __init__(self, datasets):
        self.datasets = datasets

    def __getitems__(self, keys):
        return [dataset.__getitems__(keys) for dataset in self.datasets]


def unchanged(batch):
    """Returns the batch without collating it."""
    return batch
