"""Options of the attribution methods, of right and wrong types."""

from inspect import signature
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from tests.helpers.examples import images, road
from vbp_lightning.attribution import Saliency
from vbp_lightning.data.tiles.tile import Tile
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.methods import attributions, method_maker
from vbp_lightning.explaining.tile_sources import ChosenTiles

CONF = Path(__file__).parents[2] / "conf"
with initialize_config_dir(str(CONF), version_base="1.3"):
    CONFIG = compose("explain", ["method=all"])

WHOLE = ("a whole number", ["abc", 1.5, True, [1], None, inf])
REAL = ("a number", ["abc", True, [0.1], None, nan])
TEXT = ("text", [3, True, ["block2"]])
SWITCH = ("true or false", ["abc", 1, None])
FORM = ("absolute or signed", ["abc", 3, None, ["signed"]])

TYPES = {
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
    return list(signature(get_class(CONFIG.method[name]._target_)).parameters)[1:]


def options_with(name, **changes):
    return OmegaConf.to_container(CONFIG.method[name], resolve=True) | changes


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in CONFIG.method for option in options_of(name)]
)
def test_an_option_of_a_wrong_type_is_named_with_what_it_takes(name, option):
    takes, wrong = TYPES[option]
    for value in wrong:
        with pytest.raises(UserError) as caught:
            method_maker(name, options_with(name, **{option: value}))
        shown = {"True": "true", "None": "null"}.get(str(value), value)
        assert caught.value.lines == (f"method.{name}.{option}={shown}: must be {takes}",)


@pytest.mark.parametrize("name", list(CONFIG.method))
def test_the_options_of_the_config_have_their_types(name):
    maker = method_maker(name, CONFIG.method[name])
    assert set(maker.keywords) <= set(options_of(name))


def test_infinity_is_a_gamma_and_all_errors_are_reported():
    assert method_maker("lrp", options_with("lrp", gamma=inf)).keywords["gamma"] == inf
    with pytest.raises(UserError) as caught:
        method_maker("lrp", options_with("lrp", gama=1, epsilon="abc", form=2))
    assert caught.value.lines == (
        "method.lrp.gama: is not an option; choose among epsilon, gamma, form, rotations, chunk",
        "method.lrp.epsilon=abc: must be a number",
        "method.lrp.form=2: must be absolute or signed",
    )
    with pytest.raises(UserError, match=r"method\.lrp: .*Nothing"):
        method_maker("lrp", {"_target_": "vbp_lightning.attribution.Nothing"})


def network_and_tiles():
    model = road("strided")  # its head is not the linear one that CAM needs
    tiles = images(2, 96)
    places = [Tile("a", 0, 0), Tile("a", 0, 96)]
    return SimpleNamespace(model=model, device=torch.device("cpu")), ChosenTiles(tiles, places)


def test_a_wrong_option_is_reported_also_for_all_methods():
    cfg = CONFIG.copy()
    cfg.method.lrp.epsilon = "abc"
    with pytest.raises(UserError, match=r"method\.lrp\.epsilon=abc: must be a number"):
        attributions(cfg, *network_and_tiles(), None)


def test_a_method_that_does_not_suit_the_network_is_left_out_on_request(capsys):
    subject, chosen = network_and_tiles()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("explain", ["method=[cam,saliency]"])
    with pytest.raises(UserError, match=r"^method\.cam: .*model\.head=gap"):
        attributions(cfg, subject, chosen, 1)
    cfg.skip_unsupported = True
    maps = attributions(cfg, subject, chosen, 1)
    assert list(maps) == ["saliency"]
    expected = Saliency(subject.model).attribute(chosen.tiles, 1)[:, 0]
    assert np.array_equal(maps["saliency"], expected.numpy())
    assert "cam is left out: " in capsys.readouterr().err
    cfg.method = {"cam": cfg.method.cam}
    with pytest.raises(UserError, match="none of the chosen methods"):
        attributions(cfg, subject, chosen, 1)


def test_all_methods_may_be_left_out_but_single_ones_may_not():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert not compose("explain", ["method=[cam,lrp]"]).skip_unsupported
    assert CONFIG.skip_unsupported
    files = {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert set(CONFIG.method) == files - {"all"}
