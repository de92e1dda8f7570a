"""Shows what a network's decisions rest on, and what is in it: ``python explain.py --help``."""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from vbp_lightning.cli import end_with
from vbp_lightning.explaining.subject import load_subject


def explain(cfg: DictConfig) -> None:
    """Does the chosen task with a road classifier or a foreign network."""
    subject = load_subject(cfg)
    task = instantiate(cfg.action)
    for path in task(cfg, subject):
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
