import pytest
import torch
from torch import nn

from vbp_lightning.attribution.undisturbed import undisturbed


class FakeCard:
    """The functions of ``torch.cuda`` that are called; a capture bars the random state."""

    def __init__(self, capturing):
        self.capturing = capturing
        self.state = 7

    def is_current_stream_capturing(self):
        return self.capturing

    def get_rng_state(self, device):
        if self.capturing:
            raise RuntimeError("Cannot call CUDAGeneratorImpl::current_seed during capture")
        return self.state

    def set_rng_state(self, state, device):
        assert not self.capturing
        self.state = state


@pytest.mark.parametrize(("capturing", "after"), [(False, 7), (True, 8)])
def test_the_random_state_of_a_card_is_restored_except_in_a_capture(monkeypatch, capturing, after):
    card = FakeCard(capturing)
    monkeypatch.setattr(torch, "get_device_module", lambda device: card)
    model = nn.Dropout()
    with undisturbed(model, torch.device("cuda")):
        assert not model.training
        card.state = 8
    assert model.training
    assert card.state == after
