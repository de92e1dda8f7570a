"""Options of the attribution methods, of the right and of the wrong kinds."""

from inspect import signature
from math import inf, nan
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.methods import attributions, method_maker

CONFIG = OmegaConf.create(
    {
        "upsampling": {"name": "deconv"},
        "methods": OmegaConf.load(Path(__file__).parents[2] / "conf/methods/default.yaml"),
    }
)

WHOLE = ("a whole number", ["abc", 1.5, True, [1], None, inf])
REAL = ("a number", ["abc", True, [0.1], None, nan])
TEXT = ("text", [3, True, ["block2"]])
SWITCH = ("true or false", ["abc", 1, None])
FORM = ("absolute or signed", ["abc", 3, None, ["signed"]])

KINDS = {
    **dict.fromkeys(("chunk", "samples", "seed", "skip", "steps", "stride", "rotations"), WHOLE),
    **dict.fromkeys(("window",), WHOLE),
    **dict.fromkeys(("epsilon", "gamma", "noise"), REAL),
    **dict.fromkeys(("relu", "fuse"), SWITCH),
    "form": FORM,
    "layer": ("text or null", TEXT[1]),
    "upsampling": TEXT,
    "unit": ("a list in square brackets", ["abc", 3, ["a"], [1.5], None]),
    "baseline": ("mean or zero", ["abc", 0, None]),
    "weighting": ("mean or gradient or channels", ["abc", True, None]),
    "fill": ("a number or mean or blur", ["abc", True, [1], None, nan]),
    "output": ("drop or probability or probability_drop", ["abc", 1, None]),
}


def options_of(name):
    return list(signature(get_class(CONFIG.methods[name]._target_)).parameters)[1:]


def options_with(name, **changes):
    return OmegaConf.to_container(CONFIG, resolve=True)["methods"][name] | changes


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in CONFIG.methods for option in options_of(name)]
)
def test_an_option_of_the_wrong_kind_is_named_with_what_it_takes(name, option):
    takes, wrong = KINDS[option]
    for value in wrong:
        with pytest.raises(UserError) as caught:
            method_maker(name, options_with(name, **{option: value}))
        assert caught.value.lines == (f"methods.{name}.{option}={value}: must be {takes}",)


@pytest.mark.parametrize("name", list(CONFIG.methods))
def test_the_options_of_the_config_are_of_their_kinds(name):
    maker = method_maker(name, CONFIG.methods[name])
    assert set(maker.keywords) <= set(options_of(name))


def test_infinity_is_a_gamma_and_all_faults_are_told():
    assert method_maker("lrp", options_with("lrp", gamma=inf)).keywords["gamma"] == inf
    with pytest.raises(UserError) as caught:
        method_maker("lrp", options_with("lrp", gama=1, epsilon="abc", form=2))
    assert caught.value.lines == (
        "methods.lrp.gama: is no option of it; choose among epsilon, gamma, form, chunk",
        "methods.lrp.epsilon=abc: must be a number",
        "methods.lrp.form=2: must be absolute or signed",
    )
    with pytest.raises(UserError, match=r"methods\.lrp: .*Nothing"):
        method_maker("lrp", {"_target_": "vbp_lightning.attribution.Nothing"})


def test_a_wrong_option_is_told_also_where_all_methods_are_asked_for():
    methods = {name: options_with(name) for name in CONFIG.methods}
    methods["lrp"]["epsilon"] = "abc"
    cfg = OmegaConf.create({"method": "all", "methods": methods})
    with pytest.raises(UserError, match=r"methods\.lrp\.epsilon=abc: must be a number"):
        attributions(cfg, nn.Identity(), torch.zeros(1, 3, 8, 8), None)
