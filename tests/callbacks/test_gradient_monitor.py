"""Gradients by layer and epoch: what is logged, and that training is the same."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.bar_tiles import BarTiles, model_of
from tests.helpers.bar_tiles import fit as helper_fit
from vbp_lightning.callbacks import GradientFlow

CONF = Path(__file__).parents[2] / "conf"


class Spy(pl.Callback):
    """Records the gradient norm of one layer at every step, computed independently."""

    def __init__(self):
        self.norms = []

    def on_after_backward(self, trainer, pl_module):
        self.norms.append(float(pl_module.network.prob.weight.grad.norm()))


def fit(folder, *callbacks, freeze=False):
    model = model_of()
    if freeze:
        model.network.hidden[1].weight.data.zero_()
        model.network.hidden[1].weight.requires_grad_(False)
    data = BarTiles((0, 8) * 12)
    helper_fit(folder, *callbacks, datamodule=data, model=model, gradient_clip_val=0.01)
    return model


def events(folder):
    return EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()


def test_norms_are_those_of_every_step_before_clipping(tmp_path):
    spy = Spy()
    model = fit(tmp_path, GradientFlow(every=1), spy)
    logged = events(tmp_path)
    scalars = {
        tag.split("/")[1] for tag in logged.Tags()["scalars"] if tag.startswith("gradient_n")
    }
    layers = {name for name, module in model.named_modules() if list(module.parameters(False))}
    assert scalars == layers
    assert {f"gradient/{name}" for name in layers} == set(logged.Tags()["histograms"])
    mean = logged.Scalars("gradient_norm/network.prob")
    assert [event.step for event in mean] == [0, 1]
    assert spy.norms[0] > 0.01
    # the bias beside the weight adds to the layer's norm
    assert mean[0].value >= np.mean(spy.norms[:3]) > 0
    largest = logged.Scalars("gradient_largest/network.prob")
    assert largest[0].value >= max(spy.norms[:3])
    assert largest[1].value < 10 * max(spy.norms[3:])


def test_layers_without_gradient_are_named(tmp_path):
    fit(tmp_path, GradientFlow(every=2), freeze=True)
    logged = events(tmp_path)
    text = logged.Tensors("gradient/diagnoses/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "network.block3.0 dead" in text
    assert "network.prob dead" not in text
    assert logged.Scalars("gradient_zeros/network.block3.0")[0].value == 1


def test_training_is_the_same_to_the_last_bit(tmp_path):
    ends = []
    for name, callbacks in {"with": [GradientFlow(1)], "without": []}.items():
        model = fit(tmp_path / name, *callbacks)
        ends.append((model.state_dict(), torch.random.get_rng_state()))
    (weights, state), (others, other_state) = ends
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert torch.equal(state, other_state)


def test_the_group_adds_it_to_the_callbacks_of_every_run():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = compose("train").callbacks
        chosen = compose("train", ["callbacks=gradient_flow", "callbacks.panels.tiles=8"]).callbacks
    assert set(chosen) == set(plain) | {"gradient_flow"}
    assert chosen.panels.tiles == 8
    assert get_class(chosen.gradient_flow._target_) is GradientFlow
    with pytest.raises(ValueError, match="at least 1"):
        GradientFlow(0)
