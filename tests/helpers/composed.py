"""Configs of the entry points, composed without running them."""

import re
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

import vbp_lightning.cli  # noqa: F401  it registers the resolvers of the configs

CONF = Path(__file__).parents[2] / "conf"


def composed(name, *overrides, folder="run"):
    """A config with every reference resolved, those to Hydra's own values too.

    Args:
        name: ``train`` or ``explain``.
        overrides: As on the command line.
        folder: The folder of the run.
    """
    if name == "explain" and not any(each.startswith("paths.") for each in overrides):
        # the default makes a folder
        overrides = (f"output={folder}", *overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, list(overrides), return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder)
        cfg.hydra.runtime.cwd = str(folder)
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        OmegaConf.resolve(cfg)
    finally:
        HydraConfig.instance().cfg = before
    return cfg


@cache
def _unresolved(name, overrides):
    if name == "explain":
        overrides = ("output=out", *overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        text = OmegaConf.to_yaml(compose(name, list(overrides)))
    return OmegaConf.create(re.sub(r"\$\{hydra:runtime\.\w+\}", "run", text))


def changed(name, groups, *settings):
    """A config whose references are not resolved, with settings changed after it was composed.

    Args:
        name: ``train`` or ``explain``.
        groups: Overrides of the composition, which takes long and is done once for each.
        *settings: As on the command line, ``+key=value`` too.
    """
    cfg = _unresolved(name, tuple(groups)).copy()
    for setting in OverridesParser.create().parse_overrides(list(settings)):
        OmegaConf.update(cfg, setting.key_or_group, setting.value(), force_add=True)
    OmegaConf.set_struct(cfg, True)
    return cfg
