import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.callbacks import ExplanationScores
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.evaluation.localisation import average_precision, relevance_mass
from vbp_lightning.models import RoadClassifier

SIZE = 32


class BarTiles(pl.LightningDataModule):
    """Noise, and in every second tile a bright bar as the road; one tile is road as a whole."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.tiles = torch.rand(12, 3, SIZE, SIZE, generator=generator)
        self.masks = torch.zeros(12, SIZE, SIZE, dtype=torch.bool)
        self.masks[::2, 8:14] = True
        self.masks[4] = True
        self.tiles += self.masks[:, None]
        self.labels = self.masks.any(2).any(1).long()

    def tiles_of(self, split):
        assert split == "val"
        shares = self.masks.double().mean((1, 2))
        return [
            LabelledTile(Tile("scene", row * SIZE, 0), (0, 0, 1, 1), share, Label(label), split)
            for row, (share, label) in enumerate(
                zip(shares.tolist(), self.labels.tolist(), strict=True)
            )
        ]

    def _rows(self, tiles):
        return [tile.tile.row // SIZE for tile in tiles]

    def read_tiles(self, tiles):
        return self.tiles[self._rows(tiles)].clone()

    def read_masks(self, tiles):
        return self.masks[self._rows(tiles)]

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.tiles, self.labels), 4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.tiles, self.labels), 4)


def fit(folder, *callbacks):
    torch.manual_seed(1)
    model = RoadClassifier("strided", mean=[0.5] * 3, std=[0.5] * 3)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    torch.manual_seed(5)
    trainer.fit(model, datamodule=BarTiles())
    trainer.loggers[0].finalize("success")
    return model


def test_training_is_the_same_to_the_last_bit_and_scores_are_logged(tmp_path):
    callback = ExplanationScores("bilinear", tiles=4)
    model = fit(tmp_path / "with", callback)
    state = torch.get_rng_state()
    other = fit(tmp_path / "without")
    assert torch.equal(state, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert [m.training for m in model.modules()] == [m.training for m in other.modules()]

    events = EventAccumulator(str(tmp_path / "with")).Reload()
    names = {tag for tag in events.Tags()["scalars"] if tag.startswith("explanation/")}
    assert names == {
        "explanation/average_precision",
        "explanation/relevance_mass",
        "explanation/rank_accuracy",
        "explanation/pointing_game_2px",
        "explanation/chance",
    }
    for name in names:
        assert [event.step for event in events.Scalars(name)] == [0, 1]
    # what stands there last is what the trained model gets
    scores = callback.scores(model, BarTiles())
    for name in names:
        assert events.Scalars(name)[-1].value == pytest.approx(scores[name], rel=1e-5)


def test_the_scores_are_those_of_the_masks_where_the_road_is_known():
    model, data = RoadClassifier("maxpool", mean=[0.5] * 3, std=[0.5] * 3), BarTiles()
    found = ExplanationScores("deconv", tiles=6).scores(model, data)
    known = [0, 2, 6, 8, 10]  # the fourth is road as a whole
    masks = VisualBackProp(model).attribute(data.tiles[known])[:, 0].double().numpy()
    truth = data.masks[known].numpy()
    expected = average_precision(masks, truth).mean()
    assert found["explanation/average_precision"] == pytest.approx(expected)
    assert found["explanation/relevance_mass"] == pytest.approx(relevance_mass(masks, truth).mean())
    assert found["explanation/chance"] == pytest.approx(6 / SIZE)
    assert np.isfinite(list(found.values())).all()


def test_where_no_road_pixels_are_known_nothing_is_scored():
    data = BarTiles()
    data.masks[data.labels == 1] = True
    model = RoadClassifier("strided", mean=[0.5] * 3, std=[0.5] * 3)
    assert ExplanationScores().scores(model, data) == {}
    with pytest.raises(ValueError, match="at least 1"):
        ExplanationScores(tiles=0)
