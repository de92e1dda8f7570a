"""A classifier that cheats: it calls a tile road if any pixel is bright."""

import torch

from vbp_lightning import RoadClassifier


def mark_detector(**settings):
    """P(road) is near 1 for tiles with a pixel above about half of 255, near 0 for others.

    Args:
        **settings: Of ``RoadClassifier``, such as ``data`` and ``splits``.
    """
    model = RoadClassifier("strided", mean=[0.0] * 3, std=[255.0] * 3, **settings)
    with torch.no_grad():
        for name, values in model.named_parameters():
            values.zero_()
            if values.ndim == 1 and "weight" in name:
                values.fill_(1)  # batch norms
            elif values.ndim == 4:
                values[0, 0, values.shape[2] // 2, values.shape[3] // 2] = 1
        hidden, prob = model.network.hidden[0], model.network.prob
        hidden.weight[0, 0], prob.weight[0, 0], prob.bias[0] = 1, 40, -20
    return model
