"""Shows which pixels a road classifier's decisions rest on: ``python explain.py --help``."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from vbp_lightning.models import RoadClassifier
from vbp_lightning.runs.explanation import (
    attributions,
    tiles_of_image,
    tiles_of_run,
    write_explanation,
)
from vbp_lightning.runs.failures import end_with


def explain(cfg: DictConfig) -> None:
    """Explains tiles of an image, or of the data that the checkpoint was trained on."""
    model = RoadClassifier.load_from_checkpoint(Path(cfg.ckpt), map_location="cpu")
    if cfg.input is None:
        chosen = tiles_of_run(model, cfg.split, cfg.tiles)
    else:
        chosen = tiles_of_image(model, Path(cfg.input), cfg.tiles)
    maps = attributions(cfg, model, chosen.tiles)
    for path in write_explanation(Path(cfg.output), cfg, model, chosen, maps):
        print(path)


@hydra.main(config_path="conf", config_name="explain", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """One explanation."""
    try:
        explain(cfg)
    except Exception as error:
        end_with(error)


if __name__ == "__main__":
    main()
