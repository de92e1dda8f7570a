import errno
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.states import TrainerFn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.bar_tiles import BarTiles, fit, model_of, trainer_of
from vbp_lightning.callbacks.mask_panels import MaskPanels
from vbp_lightning.cli import explain_failure
from vbp_lightning.files import WriteError
from vbp_lightning.models import RoadClassifier
from vbp_lightning.plotting.canvas import VERMILION

GROUPS = ["road_large_share", "road_small_share", "ignore_border", "non_road"]
EXAMPLES = [
    "confident_true_positives",
    "confident_false_negatives",
    "false_positives",
    "borderline",
]


def logged(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {tag: events.Images(tag) for tag in events.Tags()["images"]}


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer, model, datamodule = fit(folder, MaskPanels(tiles=16))
    with torch.no_grad():
        probabilities = model.eval()(datamodule.tiles).squeeze(1).sigmoid()
    panels = next(c for c in trainer.callbacks if isinstance(c, MaskPanels))
    panels.log_example_predictions(trainer, model, datamodule, probabilities)
    trainer.loggers[0].finalize("success")
    return SimpleNamespace(
        folder=folder, trainer=trainer, model=model, data=datamodule, images=logged(folder)
    )


def test_every_group_is_logged_at_every_epoch(finished):
    for group in GROUPS:
        steps = [event.step for event in finished.images[f"panel/validation/{group}"]]
        assert steps == [0, 1]


def test_the_examples_and_the_chain_come_at_the_last_epoch(finished):
    for tag in [f"panel/examples/{name}" for name in EXAMPLES] + ["panel/chain"]:
        assert [event.step for event in finished.images[tag]] == [1]


def test_nothing_else_is_written(finished):
    names = sorted(path.name for path in (finished.folder / "panels").iterdir())
    assert names == ["chain.png", "epoch_000.png", "epoch_001.png", "example_predictions.png"]
    assert len(finished.images) == len(GROUPS) + len(EXAMPLES) + 1


def test_the_png_is_the_logged_pages_one_below_the_other(finished):
    sheets = {"example_predictions": ([f"panel/examples/{name}" for name in EXAMPLES], 0)}
    sheets |= {
        f"epoch_{epoch:03d}": ([f"panel/validation/{name}" for name in GROUPS], epoch)
        for epoch in range(2)
    }
    sheets["chain"] = (["panel/chain"], 0)
    for name, (tags, place) in sheets.items():
        pages = [decode(finished.images[tag][place].encoded_image_string) for tag in tags]
        sheet = decode((finished.folder / "panels" / f"{name}.png").read_bytes())
        np.testing.assert_array_equal(sheet, np.concatenate(pages))
        for tag, page in zip(tags, pages, strict=True):
            event = finished.images[tag][place]
            assert (event.height, event.width) == page.shape[:2]


def test_tiles_are_the_same_at_every_epoch_and_read_once(finished):
    first, second = (
        decode((finished.folder / "panels" / f"epoch_{epoch:03d}.png").read_bytes())
        for epoch in range(2)
    )
    # the first picture of the first page: below title, frame and two lines of text
    where = (slice(98, 194), slice(18, 114))
    np.testing.assert_array_equal(first[where], second[where])
    assert (first != second).any()
    assert finished.data.reads == 2  # the tiles of the epochs, those of the examples


def test_false_negatives_and_false_positives_are_marked_and_true_positives_are_not(finished):
    marked = {
        name: (
            decode(finished.images[f"panel/examples/{name}"][0].encoded_image_string) == VERMILION
        )
        .all(-1)
        .any()
        for name in EXAMPLES[:3]
    }
    with torch.no_grad():
        called = (
            finished.model(finished.data.tiles).squeeze(1).sigmoid() >= finished.model.threshold
        )
    labels = torch.tensor([int(tile.label) for tile in finished.data.tiles_of("val")])
    assert marked == {
        "confident_true_positives": False,
        "confident_false_negatives": bool((~called & (labels == 1)).any()),
        "false_positives": bool((called & (labels == 0)).any()),
    }


@pytest.mark.filterwarnings("ignore:Found 4 .* in eval mode")  # on purpose
@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_training_is_the_same_to_the_last_bit_without_the_callback(tmp_path, architecture):
    ends = []
    for name, callbacks in {"with": [MaskPanels()], "without": []}.items():
        model = model_of(architecture=architecture)
        # a part that its user froze in evaluation mode stays so
        model.network.block0.eval()
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        trainer = trainer_of(tmp_path / name, *callbacks, epochs=2)
        trainer.fit(model, datamodule=BarTiles())
        ends.append(
            (
                model.state_dict(),
                torch.random.get_rng_state(),
                np.random.get_state()[1],  # noqa: NPY002
                [module.training for module in model.modules()],
                [parameter.requires_grad for parameter in model.parameters()],
                sum(len(module._forward_hooks) for module in model.modules()),
            )
        )
    (weights, *state), (other_weights, *other_state) = ends
    assert weights.keys() == other_weights.keys()
    for name, value in weights.items():
        assert torch.equal(value, other_weights[name]), name
    assert torch.equal(state[0], other_state[0])
    np.testing.assert_array_equal(state[1], other_state[1])
    assert state[2:] == other_state[2:]


def test_every_module_keeps_its_mode_at_each_epoch(tmp_path):
    seen = []

    class Watching(MaskPanels):
        def on_validation_end(self, trainer, pl_module):
            before = [module.training for module in pl_module.modules()]
            super().on_validation_end(trainer, pl_module)
            seen.append(before == [module.training for module in pl_module.modules()])

    fit(tmp_path, Watching(tiles=4), epochs=1)
    assert seen == [True, True]  # sanity check and epoch


def test_the_sanity_check_writes_nothing(tmp_path):
    class Interrupted(RoadClassifier):
        def training_step(self, batch, batch_index):
            raise KeyError("stop after the sanity check")

    trainer = trainer_of(tmp_path, MaskPanels(), num_sanity_val_steps=-1)
    with pytest.raises(KeyError, match="sanity"):
        trainer.fit(Interrupted(mean=[0.5] * 3, std=[0.5] * 3), datamodule=BarTiles())
    assert not (tmp_path / "panels").exists()
    assert logged(tmp_path) == {}


@pytest.mark.parametrize(
    ("function", "sanity", "rank_zero"),
    [
        (TrainerFn.VALIDATING, False, True),
        (TrainerFn.FITTING, True, True),
        (TrainerFn.FITTING, False, False),
    ],
)
def test_only_a_fit_beyond_the_sanity_check_on_rank_zero_shows(
    tmp_path, function, sanity, rank_zero
):
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn=function),
        sanity_checking=sanity,
        is_global_zero=rank_zero,
        default_root_dir=str(tmp_path),
    )
    # there is neither model nor data: using them would fail
    MaskPanels().on_validation_end(trainer, None)
    if not rank_zero:
        MaskPanels().log_example_predictions(trainer, None, None, None)
    assert not list(tmp_path.iterdir())


def test_png_files_do_not_need_tensorboard(tmp_path):
    fit(tmp_path / "with", MaskPanels(tiles=4), epochs=1)
    fit(tmp_path / "without", MaskPanels(tiles=4), epochs=1, logger=CSVLogger(tmp_path))
    one, other = (
        decode((tmp_path / folder / "panels" / "epoch_000.png").read_bytes())
        for folder in ("with", "without")
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_any_number_of_bands(tmp_path, bands):
    data, model = BarTiles(bands=bands), model_of(bands)
    fit(tmp_path, MaskPanels(tiles=5), epochs=1, datamodule=data, model=model)
    sheet = decode((tmp_path / "panels" / "epoch_000.png").read_bytes())
    pages = [logged(tmp_path)[f"panel/validation/{group}"][0] for group in GROUPS]
    assert sheet.shape == (sum(page.height for page in pages), pages[0].width, 3)


def test_more_tiles_make_more_pages(tmp_path):
    fit(tmp_path, MaskPanels(tiles=24), epochs=1)
    tags = logged(tmp_path)
    assert {"panel/validation/non_road", "panel/validation/non_road_2"} <= tags.keys()


def test_too_few_tiles_are_refused():
    with pytest.raises(ValueError, match=r"^tiles=3: must be at least 4$"):
        MaskPanels(tiles=3)


def test_the_numbers_of_probabilities_and_tiles_must_agree(finished):
    with pytest.raises(ValueError, match="40 validation tiles"):
        MaskPanels().log_example_predictions(
            finished.trainer, finished.model, finished.data, torch.zeros(39)
        )


def test_a_full_disk_is_one_line_and_keeps_the_older_file(tmp_path, monkeypatch):
    older = tmp_path / "panels" / "epoch_000.png"
    older.parent.mkdir()
    older.write_bytes(b"older")

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        fit(tmp_path, MaskPanels(tiles=4), epochs=1)
    (line,) = explain_failure(caught.value).lines
    assert "panels/epoch_000.png" in line
    assert "No space left on device" in line
    assert [path.name for path in older.parent.iterdir()] == ["epoch_000.png"]
    assert older.read_bytes() == b"older"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "panels").write_text("in the way")
    with pytest.raises(WriteError) as caught:
        fit(tmp_path, MaskPanels(tiles=4), epochs=1)
    assert caught.value.errno == errno.EEXIST
    (line,) = explain_failure(caught.value).lines
    assert line.startswith(f"{tmp_path / 'panels'}: cannot be written: File exists")
    assert "move what has its name" in line


def test_pyplot_holds_no_figure(finished):
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
