"""The mean of the weights that is validated and kept, against a slow re-implementation."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.helpers.bar_tiles import fit
from vbp_lightning.callbacks import PolynomialAveraging, RunCheckpoint


class Record(pl.Callback):
    """Copies the weights after each step, and the weights and the threshold of validations."""

    def __init__(self):
        self.steps, self.validated, self.training = [], [], []

    def on_train_batch_end(self, trainer, model, *_):
        self.steps.append(copied(model))

    def on_validation_end(self, trainer, model):
        if not trainer.sanity_checking:
            self.validated.append(copied(model))

    def on_train_epoch_end(self, trainer, model):
        self.training.append(copied(model))


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def mean_of(steps, eta):
    """Shamir and Zhang (2013), equation 9, in double precision."""
    mean = None
    for t, weights in enumerate(steps, 1):
        share = (eta + 1) / (t + eta)
        now = {name: value.double().numpy() for name, value in weights.items()}
        before = now if mean is None else mean
        mean = {name: (1 - share) * before[name] + share * now[name] for name in now}
    return mean


def checkpointed(folder, *callbacks, **options):
    record = Record()
    keep = RunCheckpoint(str(folder), "best")
    _, model, _ = fit(folder, record, keep, *callbacks, enable_checkpointing=True, **options)
    return record, model, torch.load(folder / "best.ckpt", weights_only=True)


@pytest.mark.parametrize("eta", [0, 3])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_what_is_validated_and_kept_is_the_mean(tmp_path, eta, accumulated):
    options = {"accumulate_grad_batches": accumulated, "epochs": 3}
    record, model, kept = checkpointed(tmp_path, PolynomialAveraging(eta), **options)
    steps = record.steps[accumulated - 1 :: accumulated]
    assert len(steps) == 12 // accumulated
    for epoch, validated in enumerate(record.validated, 1):
        expected = mean_of(steps[: epoch * len(steps) // 3], eta)
        for name, value in validated.items():
            if name.startswith("network") and value.is_floating_point():
                assert np.allclose(value.double(), expected[name], rtol=1e-4, atol=1e-6), name
    for name, value in record.validated[-1].items():
        assert torch.equal(value, kept["state_dict"][name]), name
        assert torch.equal(value, model.state_dict()[name]), name


def test_training_is_the_same_to_the_last_bit(tmp_path):
    record, _, kept = checkpointed(tmp_path / "with", PolynomialAveraging())
    plain, _, _ = checkpointed(tmp_path / "without")
    for one, other in zip(record.steps, plain.steps, strict=True):
        for name in one:
            assert name == "threshold" or torch.equal(one[name], other[name]), name
    for name, value in record.steps[-1].items():
        assert name == "threshold" or torch.equal(value, kept["current_model_state"][name]), name
    assert not torch.equal(
        kept["state_dict"]["network.prob.weight"],
        kept["current_model_state"]["network.prob.weight"],
    )


def test_the_share_of_a_step_depends_on_the_length_of_the_training_alone():
    """The mean age of the weights is nearly 1 / (eta + 2) of the training, short or long."""
    for eta in (0, 3, 8):
        for length in (50, 5000):
            shares = np.zeros(length)
            for t in range(1, length + 1):
                shares[: t - 1] *= 1 - (eta + 1) / (t + eta)
                shares[t - 1] = (eta + 1) / (t + eta)
            age = (shares * (length - np.arange(1, length + 1))).sum() / length
            assert shares.sum() == pytest.approx(1)
            assert age == pytest.approx(1 / (eta + 2), rel=0.2)


def test_a_negative_eta_is_refused():
    with pytest.raises(ValueError, match=r"^eta=-1: must be at least 0$"):
        PolynomialAveraging(-1)
