"""The data module as a whole: tiles, labels, loaders, workers, processes and resuming."""

import itertools
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import rasterio
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import SPLITS, DataError, ImageLabel
from vbp_lightning.data.settings import DataSettings
from vbp_lightning.data.tiles.augmentation import Augmentation
from vbp_lightning.data.tiles.evidence import Evidence
from vbp_lightning.data.tiles.tile import Label, Tile


def on_disk(datamodule):
    """Image, road mask and transform of each scene, read with rasterio."""
    scenes = {}
    for scene in datamodule.source():
        with rasterio.open(scene.image) as image, rasterio.open(scene.labels) as mask:
            scenes[scene.name] = (image.read(), mask.read(1) == 255, image.transform)
    return scenes


def everything(loader):
    tiles, labels = zip(*loader, strict=True)
    return torch.cat(tiles), torch.cat(labels)


def test_tiles_and_labels_against_the_files(datamodule):
    scenes = on_disk(datamodule)
    for split in SPLITS:
        step = 8 if split == "train" else 16
        corners = [
            (name, row, col)
            for name in scenes
            if name.startswith(split)
            for row in range(0, 64 - 15, step)
            for col in range(0, 80 - 15, step)
        ]
        tiles = datamodule.tiles_of(split)
        assert [(t.tile.scene, t.tile.row, t.tile.col) for t in tiles] == corners
        masks = datamodule.read_road_masks(tiles)
        pixels = datamodule.read_tiles(tiles)
        assert pixels.dtype == torch.float32
        assert masks.dtype == torch.bool
        for item, mask, tile in zip(tiles, masks, pixels, strict=True):
            image, road, transform = scenes[item.tile.scene]
            window = np.s_[item.tile.row : item.tile.row + 16, item.tile.col : item.tile.col + 16]
            count = int(road[window].sum())
            assert item.share == count / 256
            expected = Label.ROAD if count >= 25.6 else Label.IGNORED if count else Label.NON_ROAD
            assert item.label is expected
            assert item.split == split
            left, top = transform.c + 0.5 * item.tile.col, transform.f - 0.5 * item.tile.row
            assert item.bounds == (left, top - 8, left + 8, top)
            assert np.array_equal(mask.numpy(), road[window])
            assert np.array_equal(tile.numpy(), image[:, window[0], window[1]])


def test_counts_hold_every_tile(make_datamodule):
    made = make_datamodule(cover_edges=True, stride=15, train_stride=13)
    made.setup()
    for split in SPLITS:
        tiles = made.tiles_of(split)
        labels = [tile.label.name.lower() for tile in tiles]
        expected = {name: labels.count(name) for name in ("road", "non_road", "ignored")}
        assert made.counts[split] == expected | {"dropped": 0}
        for name in {tile.tile.scene for tile in tiles}:
            covered = np.zeros((64, 80), int)
            for tile in tiles:
                if tile.tile.scene == name:
                    covered[tile.tile.row :, tile.tile.col :][:16, :16] += 1
            assert covered.min() > 0


def test_no_pixel_is_in_two_splits(datamodule):
    names = [{tile.tile.scene for tile in datamodule.tiles_of(split)} for split in SPLITS]
    assert sum(map(len, names)) == len(set.union(*names)) == 6
    assert datamodule.scene_splits == {name: name[:-1] for name in set.union(*names)}


def test_statistics_are_those_of_the_training_pixels(datamodule):
    scenes = on_disk(datamodule)
    pixels = np.concatenate(
        [scenes[name][0].reshape(3, -1) for name in ("train0", "train1")], axis=1
    ).astype(np.float64)
    assert datamodule.mean == pytest.approx(pixels.mean(axis=1), rel=1e-12)
    assert datamodule.std == pytest.approx(pixels.std(axis=1), rel=1e-12)
    assert len(datamodule.mean) == 3
    assert all(type(value) is float for value in datamodule.mean + datamodule.std)


def test_invalid_pixels_count_nowhere(listed, make_scene):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 200, (3, 64, 80), dtype=np.uint8)
    image[:, :, 40:52] = 0
    mask = np.zeros((64, 80), np.uint8)
    mask[:, 36:52] = 255
    scenes = []
    for number, split in enumerate(SPLITS):
        own = image.copy()
        own[0, -1, -1] += number  # no two scenes are the same
        scenes.append(make_scene(split, split, image=own, mask=mask, nodata=0))
    made = RoadTileDataModule(listed(tuple(scenes)), tile_size=16, max_invalid=0.5)
    made.setup()
    shares = {tile.tile.col: tile.share for tile in made.tiles_of("val") if tile.tile.row == 0}
    assert shares == {0: 0, 16: 0, 32: 0.5, 48: 0, 64: 0}  # at 32, 4 of 8 valid columns are road
    assert made.counts["val"] == {"road": 4, "non_road": 16, "ignored": 0, "dropped": 0}
    seen = image[:, image[0] > 0].astype(np.float64)
    assert made.mean == pytest.approx(seen.mean(axis=1), rel=1e-12)
    assert made.std == pytest.approx(seen.std(axis=1), rel=1e-12)
    tile = made.read_tiles([Tile("val", 0, 32)])[0]
    assert torch.equal(tile[:, :, :8], torch.from_numpy(image[:, :16, 32:40]).float())
    assert torch.equal(
        tile[:, :, 8:], torch.tensor(made.mean).round()[:, None, None].expand(3, 16, 8)
    )
    assert made.read_road_masks([Tile("val", 0, 32)])[0].sum() == 4 * 16
    strict = RoadTileDataModule(listed(tuple(scenes)), tile_size=16, max_invalid=0.25)
    with pytest.raises(DataError, match="split val has no road tile"):
        strict.setup()


def test_validation_takes_labelled_tiles_once_and_evaluation_all(datamodule):
    tiles, labels = everything(datamodule.val_dataloader())
    listed = [tile for tile in datamodule.tiles_of("val") if tile.label != Label.IGNORED]
    assert labels.tolist() == [tile.label for tile in listed]
    assert set(labels.tolist()) == {0, 1}
    assert torch.equal(tiles, datamodule.read_tiles(listed))
    for split in SPLITS:
        tiles, labels = everything(datamodule.predict_dataloader([split])[0])
        assert labels.tolist() == [tile.label for tile in datamodule.tiles_of(split)]
        assert torch.equal(tiles, datamodule.read_tiles(datamodule.tiles_of(split)))
        assert labels.dtype == torch.int64
    assert Label.IGNORED in labels


def test_single_tiles_of_a_dataset(datamodule):
    dataset = datamodule.predict_dataloader(["val"])[0].dataset
    tile, label = dataset[3]
    assert len(dataset) == len(datamodule.tiles_of("val"))
    assert label == datamodule.tiles_of("val")[3].label
    assert torch.equal(tile, datamodule.read_tiles(datamodule.tiles_of("val")[3:4])[0])


def test_tiles_at_any_position_can_be_read(datamodule):
    image = on_disk(datamodule)["test1"][0]
    tile = datamodule.read_tiles([Tile("test1", 5, 61)])
    assert np.array_equal(tile[0].numpy(), image[:, 5:21, 61:77])
    assert datamodule.read_tiles([]).shape == (0, 3, 16, 16)


def test_training_batches_are_balanced_and_cover_the_classes(datamodule):
    loader = datamodule.train_dataloader()
    labelled = [t for t in datamodule.tiles_of("train") if t.label != Label.IGNORED]
    assert len(loader) == len(labelled) // 8
    for tiles, labels in loader:
        assert tiles.shape == (8, 3, 16, 16)
        assert tiles.dtype == torch.float32
        assert sorted(labels.tolist()) == [0] * 4 + [1] * 4


def test_training_tiles_are_the_ones_of_their_labels(make_datamodule):
    made = make_datamodule(augment=None)
    made.setup()
    by_pixels = {
        pixels.numpy().tobytes(): tile.label
        for tile, pixels in zip(
            made.tiles_of("train"), made.read_tiles(made.tiles_of("train")), strict=True
        )
    }
    for tiles, labels in made.train_dataloader():
        for tile, label in zip(tiles, labels, strict=True):
            assert by_pixels[tile.numpy().tobytes()] == label


def test_epochs_differ_and_repeat(datamodule):
    loader = datamodule.train_dataloader()
    seen = {}
    for epoch in (0, 1, 0, 2, 1):
        datamodule.epoch = epoch
        tiles, _ = everything(loader)
        assert torch.equal(seen.setdefault(epoch, tiles), tiles)
    assert not torch.equal(seen[0], seen[1])


def test_seeds_differ_and_repeat(make_datamodule):
    tiles = []
    for seed in (0, 1, 0):
        made = make_datamodule(seed=seed)
        made.setup()
        tiles.append(everything(made.train_dataloader())[0])
    assert torch.equal(tiles[0], tiles[2])
    assert not torch.equal(tiles[0], tiles[1])


def test_an_epoch_of_a_given_length(make_datamodule):
    for wanted, batches in ((1, 1), (17, 2), (800, 100)):
        made = make_datamodule(tiles_per_epoch=wanted)
        made.setup()
        assert len(made.train_dataloader()) == batches


@pytest.mark.parametrize(("workers", "evidence"), [(1, None), (2, None), (2, Evidence(share=1))])
def test_workers_change_nothing(make_datamodule, workers, evidence):
    made = make_datamodule(tiles_per_epoch=48, augment=Augmentation(jitter=4), evidence=evidence)
    made.setup()
    loader = made.train_dataloader()
    parallel = DataLoader(
        loader.dataset,
        batch_sampler=loader.batch_sampler,
        collate_fn=loader.collate_fn,
        num_workers=workers,
    )
    for (tiles, labels), (same_tiles, same_labels) in zip(loader, parallel, strict=True):
        assert torch.equal(tiles, same_tiles)
        assert torch.equal(labels, same_labels)


def test_worker_processes_persist_over_epochs(make_datamodule):
    alone, helped = make_datamodule(), make_datamodule(num_workers=2)
    alone.setup()
    helped.setup()
    loader, parallel = alone.train_dataloader(), helped.train_dataloader()
    for epoch in (0, 3):
        alone.epoch = helped.epoch = epoch
        assert torch.equal(everything(loader)[0], everything(parallel)[0])


def test_processes_divide_training_and_validation(make_datamodule, attach):
    single = make_datamodule()
    single.setup()
    attach(single, epoch=2)
    whole = list(single.train_dataloader())
    val = everything(single.val_dataloader())
    for world_size in (2, 4):
        parts, val_parts = [], []
        for rank in range(world_size):
            attach(single, rank, world_size, epoch=2)
            parts.append(list(single.train_dataloader()))
            val_parts.append(list(single.val_dataloader()))
            evaluated = everything(single.predict_dataloader(["val"])[0])[1]
            assert len(evaluated) == len(single.tiles_of("val"))
        for number, (tiles, labels) in enumerate(whole):
            assert torch.equal(torch.cat([part[number][0] for part in parts]), tiles)
            assert torch.equal(torch.cat([part[number][1] for part in parts]), labels)
        # DDP waits for all in each forward pass, hence as many batches for each.
        assert len({len(part) for part in val_parts}) == 1
        assert torch.equal(torch.cat([everything(part)[0] for part in val_parts]), val[0])
        assert torch.equal(torch.cat([everything(part)[1] for part in val_parts]), val[1])


def test_scenes_are_read_once_and_files_are_not_needed_afterwards(datamodule):
    for scene in datamodule.source():
        scene.image.unlink()
        scene.labels.unlink()
    datamodule.setup("fit")
    datamodule.setup("test")
    assert len(everything(datamodule.val_dataloader())[1]) > 0


def test_datasets_are_sent_to_spawned_processes(datamodule):
    loader = datamodule.train_dataloader()
    copy = pickle.loads(pickle.dumps(loader.dataset))
    keys = next(iter(loader.batch_sampler))
    assert torch.equal(copy.__getitems__(keys)[0], loader.dataset.__getitems__(keys)[0])


def test_validation_limited_to_one_class_is_refused(datamodule, attach):
    refused = 0
    cases = itertools.product((1, 2), (2, 4, 40), (1, 2, 0.2, 0.5, 1.0))
    for world_size, batch_size, limit in cases:
        datamodule.settings = replace(datamodule.settings, batch_size=batch_size)
        seen = set()
        for rank in range(world_size):
            attach(datamodule, rank=rank, world_size=world_size)
            loader = datamodule.val_dataloader()
            count = limit if isinstance(limit, int) else int(limit * len(loader))
            for numbers in itertools.islice(loader.batch_sampler, count):
                seen |= set(loader.dataset.labels[numbers].tolist())
        datamodule.trainer.limit_val_batches = limit
        if len(seen) == 1:
            refused += 1
            with pytest.raises(DataError, match=rf"^trainer\.limit_val_batches={limit}: leaves "):
                datamodule.val_dataloader()
        else:
            assert len(datamodule.val_dataloader()) == len(loader)
    assert 0 < refused < 30


def test_a_batch_holds_two_tiles_for_each_process(make_datamodule, attach):
    module = make_datamodule(batch_size=4)
    module.setup()
    attach(module, world_size=2)
    assert len(module.train_dataloader())
    attach(module, world_size=4)
    with pytest.raises(DataError, match=r"^data\.batch_size=4: .* 2 tiles for each at least"):
        module.train_dataloader()


def test_without_a_test_split(listed, make_scene):
    scenes = tuple(make_scene(split, split) for split in ("train", "val"))
    made = RoadTileDataModule(listed(scenes), tile_size=16, test_fraction=0)
    made.setup()
    assert list(made.tiles_of("test")) == []
    assert list(made.predict_dataloader(["test"])[0]) == []


def plain(value):
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool)


def test_the_config_is_plain_and_rebuilds_the_data_module(tmp_path):
    made = RoadTileDataModule(
        PatternScenes(tmp_path, white_area=7), bands=(1, 2), stride=50, seed=3
    )
    config = made.data_config
    assert plain(config)
    assert config["root"] == str(tmp_path)
    torch.save(config, tmp_path / "config.pt")
    config = torch.load(tmp_path / "config.pt", weights_only=True)
    again = instantiate(config)
    assert again.data_config == config
    assert again.source == PatternScenes(tmp_path, white_area=7)
    assert again.settings.augment == Augmentation()
    assert again.settings.bands == (1, 2)
    elsewhere = instantiate(config | {"root": "elsewhere", "augment": False})
    assert elsewhere.source.root == Path("elsewhere")
    assert not elsewhere.settings.augment
    assert elsewhere.data_config["augment"] is False


class Recording(pl.LightningModule):
    """A model that records the tiles of each epoch; its learning rate is nearly zero."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen = {}

    def training_step(self, batch, _):
        tiles, labels = batch
        self.seen.setdefault(self.current_epoch, []).append(
            (tiles.double().sum().item(), labels.tolist())
        )
        return self.layer(tiles.mean(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0]).square().mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0  # makes the training loader's iterator
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def fit(datamodule, epochs, tmp_path, **settings):
    model = Recording()
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[saving],
        max_epochs=epochs,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{key: value for key, value in settings.items() if key != "ckpt_path"},
    )
    trainer.fit(model, datamodule, ckpt_path=settings.get("ckpt_path"))
    return model.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_continues_with_the_tiles_of_its_epoch(make_datamodule, tmp_path, workers):
    settings = {"tiles_per_epoch": 24, "num_workers": workers}
    through = fit(make_datamodule(**settings), 4, tmp_path)
    assert len({str(epoch) for epoch in through.values()}) == 4
    for saved in range(3):  # at the end of the epoch, as the checkpoints of a killed run are
        last = tmp_path / f"epoch={saved}.ckpt"
        rest = fit(make_datamodule(**settings), 4, tmp_path / "resumed", ckpt_path=last)
        assert rest == {epoch: through[epoch] for epoch in range(saved + 1, 4)}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")
@pytest.mark.filterwarnings("ignore:.*overfit")
def test_overfitting_sees_the_same_tiles_again(make_datamodule, tmp_path):
    seen = fit(make_datamodule(), 3, tmp_path, overfit_batches=2)
    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == seen[2]


CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("layout", ["synthetic", "massachusetts"])
def test_configs_name_every_setting_and_no_other(layout, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"data={layout}", f"data.root={tmp_path}", "data.num_workers=0"])
    given = {key for key in cfg.data if not key.startswith("_")}
    assert given == {"source", "root", *(field.name for field in fields(DataSettings))}
    made = instantiate(cfg.data)
    assert made.source.root == tmp_path
    assert made.settings.seed == cfg.seed
    assert instantiate(made.data_config).data_config == made.data_config


def test_the_choices_of_composites(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        common = [f"data.root={tmp_path}", "data.num_workers=0"]
        cfg = compose("train", ["evidence=composites", "data=massachusetts", *common])
        without = compose("train", ["evidence=none", *common])
    assert instantiate(cfg.data).settings.evidence == Evidence()
    assert set(cfg.data.evidence) == {field.name for field in fields(Evidence)}
    assert instantiate(without.data).settings.evidence is None


def test_composites_end_before_the_training(make_datamodule, attach):
    made = make_datamodule(evidence=Evidence(until=0.5))
    made.setup()
    assert made.train_dataloader().dataset.until == float("inf")
    attach(made)
    for epochs, end in ((20, 10), (-1, float("inf")), (None, float("inf"))):
        made.trainer.max_epochs = epochs
        assert made.train_dataloader().dataset.until == end


def test_the_dilation_of_composites_is_in_metres(make_datamodule, make_scene, listed):
    made = make_datamodule(evidence=Evidence(dilation=2))  # half a metre per pixel
    made.setup()
    assert made.train_dataloader().dataset.reach == pytest.approx([4] * 6, rel=1e-2)
    scenes = tuple(make_scene(split, split) for split in SPLITS)
    unknown = RoadTileDataModule(
        listed(scenes), tile_size=16, batch_size=8, road_share=0.1, evidence={"dilation": 2}
    )
    unknown.setup()
    assert unknown.train_dataloader().dataset.reach == [2] * 3


def test_a_share_without_any_composite_is_refused(make_datamodule):
    made = make_datamodule(evidence=Evidence(share=0.01), tiles_per_epoch=80)
    made.setup()
    with pytest.raises(DataError, match=r"share=0\.01: replaces none of the 40 pairs"):
        made.train_dataloader()


def test_composites_need_road_pixels_of_training_scenes(make_scene, listed):
    scenes = (
        *(
            replace(make_scene(f"train_{is_road}", "train"), labels=ImageLabel(is_road))
            for is_road in (True, False)
        ),
        make_scene("val", "val"),
        make_scene("test", "test"),
    )
    made = RoadTileDataModule(
        listed(scenes), tile_size=16, batch_size=8, road_share=0.1, evidence=Evidence()
    )
    with pytest.raises(DataError, match="whole images are labelled"):
        made.setup()


def test_composites_need_road_pixels(make_scene, listed):
    scenes = tuple(
        replace(make_scene(f"{split}_{is_road}", split), labels=ImageLabel(is_road))
        for split in SPLITS
        for is_road in (True, False)
    )
    made = RoadTileDataModule(listed(scenes), tile_size=16, batch_size=8, evidence=Evidence())
    with pytest.raises(DataError) as error:
        made.setup()
    assert error.value.lines == (
        f"{scenes[0].image.parent}: whole images are labelled, so that it is not known which pixels"
        " are road (data.evidence): choose evidence=none, or data with road pixels",
    )


def test_its_text_names_layout_and_numbers_of_tiles(datamodule):
    before, *lines, after = str(datamodule).splitlines()
    assert (before, after) == ("RoadTileDataModule(", ")")
    assert lines[0].split(", ")[0].strip() == f"source={type(datamodule.source).__name__}"
    for split, line in zip(SPLITS, lines[1:], strict=True):
        counts = dict(each.split("=") for each in line.partition(": ")[2].split(", "))
        assert line.startswith(f"  {split}: ")
        assert {name: int(n) for name, n in counts.items()} == datamodule.counts[split]
    fresh = RoadTileDataModule(datamodule.source)
    assert repr(fresh).splitlines()[-2:] == ["  not set up", ")"]
