"""From scenes to batches: grid, labels, splits, sampling, augmentation, the stored pixels."""
