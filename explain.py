"""Explains the decisions of a network and what it has learned: ``python explain.py --help``."""

import sys

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from vbp_lightning.cli import end_with, names_as_text, one_line_errors
from vbp_lightning.errors import plain


def explain(cfg: DictConfig) -> None:
    """Runs the chosen task on a road classifier or a custom model."""
    # not needed for --help
    from vbp_lightning.explaining.outputs import output_folder
    from vbp_lightning.explaining.settings import check_settings
    from vbp_lightning.explaining.subject import load_subject

    task = instantiate(cfg.task)
    check_settings(cfg, task)
    subject = load_subject(cfg)
    with output_folder(cfg):
        for path in task(cfg, subject):
            print(plain(str(path)))


@hydra.main(config_path="conf", config_name="explain", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Runs ``explain`` and ends with one line for each error."""
    try:
        explain(cfg)
    except BaseException as error:
        end_with(error)


if __name__ == "__main__":
    with one_line_errors():
        sys.argv[1:] = names_as_text(sys.argv[1:])
        main()
