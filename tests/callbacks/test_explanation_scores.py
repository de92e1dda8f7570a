import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.bar_tiles import SIZE, BarTiles, fit, model_of
from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.callbacks import ExplanationScores
from vbp_lightning.evaluation.localisation import average_precision, relevance_mass

BARS = (6, 0) * 2 + (SIZE, 0) + (6, 0) * 3
"""Every second tile is road; one of them is road as a whole."""


def test_training_is_the_same_to_the_last_bit_and_scores_are_logged(tmp_path):
    callback = ExplanationScores("bilinear", tiles=4)
    _, model, _ = fit(tmp_path / "with", callback, datamodule=BarTiles(BARS))
    state = torch.get_rng_state()
    _, other, _ = fit(tmp_path / "without", datamodule=BarTiles(BARS))
    assert torch.equal(state, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert [m.training for m in model.modules()] == [m.training for m in other.modules()]

    events = EventAccumulator(str(tmp_path / "with")).Reload()
    names = {tag for tag in events.Tags()["scalars"] if tag.startswith("explanation/")}
    assert names == {
        "explanation/average_precision",
        "explanation/average_precision_lift",
        "explanation/relevance_mass",
        "explanation/relevance_mass_lift",
        "explanation/rank_accuracy",
        "explanation/pointing_game_2px",
        "explanation/pointing_game_2px_lift",
        "explanation/chance",
    }
    for name in names:
        assert [event.step for event in events.Scalars(name)] == [0, 1]
    # the last ones are those of the trained model
    scores = callback.scores(model, BarTiles(BARS))
    for name in names:
        assert events.Scalars(name)[-1].value == pytest.approx(scores[name], rel=1e-5)


def test_the_scores_are_those_of_the_masks_where_the_road_is_known():
    model, data = model_of(architecture="maxpool"), BarTiles(BARS)
    found = ExplanationScores("deconv", tiles=6).scores(model, data)
    known = [0, 2, 6, 8, 10]  # tile 4 is road as a whole
    masks = VisualBackProp(model, "deconv").attribute(data.tiles[known])[:, 0].double().numpy()
    truth = data.masks[known].numpy()
    expected = average_precision(masks, truth).mean()
    assert found["explanation/average_precision"] == pytest.approx(expected)
    assert found["explanation/relevance_mass"] == pytest.approx(relevance_mass(masks, truth).mean())
    assert found["explanation/chance"] == pytest.approx(6 / SIZE)
    pixels = np.argwhere(np.ones((SIZE, SIZE)))[:, None]
    near = [(np.hypot(*(pixels - np.argwhere(mask)).T) <= 2).any(axis=0) for mask in truth]
    # chance is the share of the pixels within the tolerance
    lift = found["explanation/pointing_game_2px_lift"]
    assert lift == pytest.approx(found["explanation/pointing_game_2px"] - np.mean(near))
    several = ExplanationScores(["deconv", "nearest"], tiles=6).scores(model, data)
    assert several["explanation/deconv/average_precision"] == pytest.approx(expected)
    assert several.keys() - found.keys() == {
        key.replace("/", f"/{name}/", 1)
        for key in found
        if "chance" not in key
        for name in ("deconv", "nearest")
    }
    assert np.isfinite(list(found.values())).all()


def test_where_no_road_pixels_are_known_nothing_is_scored():
    data, model = BarTiles((SIZE, 0) * 6), model_of()
    assert ExplanationScores().scores(model, data) == {}
    with pytest.raises(ValueError, match="a list of different names"):
        ExplanationScores(["deconv", "deconv"])
    with pytest.raises(ValueError, match="at least 1"):
        ExplanationScores(tiles=0)


def test_an_accurate_network_whose_masks_miss_the_road_is_doubted(monkeypatch):
    callback, model, data = (
        ExplanationScores(["deconv", "bilinear"]),
        model_of(),
        BarTiles((6, 0) * 64),
    )

    def line(accuracy, **rows):
        """The doubt about masks with one bright pixel, in a row on the road (4 to 9) or beside."""

        def masks(method, tiles):
            found = torch.zeros(len(tiles), 1, SIZE, SIZE)
            found[torch.arange(len(tiles)), 0, rows[method.upsampling]] = 1
            return found

        monkeypatch.setattr(VisualBackProp, "attribute", masks)
        scores = callback.scores(model, data)
        return callback.doubt({"val/balanced_accuracy": accuracy, **scores})

    found = line(0.9, deconv=25, bilinear=26)
    assert "in only 0% of 64 road tiles, a random one in 31%" in found  # 10 of 32 rows
    assert "task=counterfactual" in found
    assert len(found.splitlines()) == 1
    assert line(0.99, deconv=25, bilinear=6) is None
    # half of the tiles at the road: a lift of 0.19
    half = torch.tensor([6, 25] * 32)
    assert line(0.97, deconv=25, bilinear=half) is None
    assert "in only 50% of 64 road tiles, a random one in 31%" in line(
        0.98, deconv=25, bilinear=half
    )
    assert line(0.89, deconv=25, bilinear=26) is None
    assert line(float("nan"), deconv=25, bilinear=26) is None
    callback = ExplanationScores(["deconv", "bilinear"], tiles=31)
    assert line(0.99, deconv=25, bilinear=26) is None
    assert ExplanationScores().doubt({"val/balanced_accuracy": 1.0}) is None
