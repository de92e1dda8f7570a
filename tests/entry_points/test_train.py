"""``python train.py``, end to end on tiny data."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tests.helpers.checkpoints import saved
from tests.helpers.composed import composed
from tests.helpers.programs import REPOSITORY, started
from vbp_lightning import RoadClassifier


def assert_fails_with(process, *parts):
    """One line, exit code 1, no traceback."""
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr + process.stdout
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert any(all(part in line for part in parts) for line in errors), process.stderr


def events_of(run_dir):
    accumulator = EventAccumulator(str(run_dir), size_guidance={"images": 0, "scalars": 0})
    return accumulator.Reload()


def test_a_run_leaves_all_that_the_readme_lists(run, with_masks, tmp_path):
    settings = ("trainer.max_epochs=2", "hydra.run.dir=run", "tags=[quick,first]")
    process = run("train.py", *with_masks, *settings)
    assert process.returncode == 0, process.stderr
    assert "warning" not in process.stderr.lower()
    run_dir = tmp_path / "run"
    last_lines = process.stdout.strip().splitlines()[-3:]
    assert last_lines == [
        f"Run: {run_dir}",
        f"TensorBoard: tensorboard --logdir {run_dir} --samples_per_plugin images=1000",
        f"Gallery: {run_dir / 'gallery.html'}",
    ]
    assert "VisualBackProp, deconv_normalized" in (run_dir / "gallery.html").read_text()
    assert "average precision" in process.stdout

    metrics = json.loads((run_dir / "metrics.json").read_text())
    for split in ("val", "test"):
        for name in ("auroc", "average_precision", "balanced_accuracy", "f1"):
            assert 0 <= metrics[f"{split}/{name}"] <= 1
            assert 0 <= metrics[f"{split}/{name}_with_ignored"] <= 1

    tiles = list(csv.DictReader((run_dir / "tiles.csv").read_text().splitlines()))
    predictions = list(csv.DictReader((run_dir / "predictions.csv").read_text().splitlines()))
    evaluated = [row for row in tiles if row["split"] != "train"]
    key = ("split", "scene", "row", "col", "label")
    assert [[row[k] for k in key] for row in predictions] == sorted(
        ([row[k] for k in key] for row in evaluated), key=lambda k: k[0] != "val"
    )
    assert all(0 <= float(row["probability"]) <= 1 for row in predictions)

    panels = {path.name for path in (run_dir / "panels").iterdir()}
    assert panels == {"epoch_000.png", "epoch_001.png", "example_predictions.png", "chain.png"}

    events = events_of(run_dir)
    tags = events.Tags()
    for name in ("loss", "auroc", "average_precision", "f1", "balanced_accuracy", "threshold"):
        assert [event.step for event in events.Scalars(f"val/{name}")] == [0, 1]
    assert {"train/loss", "learning_rate"} <= set(tags["scalars"])
    assert tags["graph"]
    assert {"test/precision_recall", "test/calibration", "test/confusion"} <= set(tags["images"])
    assert {0, 1} <= {e.step for t in tags["images"] if "panel" in t for e in events.Images(t)}
    assert any("hparams" in tag for tag in events.summary_metadata)
    assert events.Scalars("result/test/auroc")[0].value == pytest.approx(metrics["test/auroc"])

    best = run_dir / "checkpoints" / "best.ckpt"
    model = RoadClassifier.load_from_checkpoint(best)
    assert float(model.threshold) == pytest.approx(metrics["threshold"])
    assert model.hparams["format"] == 3
    stored = OmegaConf.load(run_dir / ".hydra" / "run.yaml")
    assert (stored.format, stored.tags) == (3, ["quick", "first"])
    assert "quick, first" in (run_dir / "hparams.yaml").read_text()
    assert not model.training
    assert not list(run_dir.rglob("*.tmp*"))


def data_as_version_0_1(data):
    old = {key: value for key, value in data.items() if key not in ("_recursive_", "_convert_")}
    old["augment"]["quarter_turns"] = old["augment"].pop("rotations")
    old["augment"]["_target_"] = "vbp_lightning.data.Augmentation"
    old["source"]["_partial_"] = True
    return old


def as_version_0_1(run_dir):
    """Converts the folder of a run to the format of version 0.1."""
    path = run_dir / ".hydra" / "run.yaml"
    stored = OmegaConf.to_container(OmegaConf.load(path))
    for added in ("format", "optimized_metric", "tags", "paths"):
        del stored[added]
    stored["data"] = data_as_version_0_1(stored["data"])
    OmegaConf.save(OmegaConf.create(stored), path)
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        settings = checkpoint["hyper_parameters"]
        del settings["format"]
        settings["data"] = data_as_version_0_1(settings["data"])
        torch.save(checkpoint, path)


@pytest.fixture
def stopped(tmp_path):
    """Starts a run of three epochs and kills it after its first checkpoint."""

    def start(*settings):
        process = started(tmp_path, "train.py", *settings, "hydra.run.dir=stopped").process
        last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
        while not last.is_file():
            assert process.is_alive()
            time.sleep(0.05)
        process.kill()
        process.join()
        assert torch.load(last, weights_only=True)["epoch"] < 2
        return tmp_path / "stopped"

    return start


def test_a_run_killed_in_mid_epoch_and_resumed_ends_like_one_that_ran_through(
    call, stopped, tiny, tmp_path
):
    longer = (*tiny, "trainer.max_epochs=3", "data.tiles_per_epoch=192", "seed=3")
    through = call("train.py", *longer, "data.num_workers=0", "hydra.run.dir=through")
    assert through.returncode == 0, through.stderr

    killed = stopped(*longer, "data.num_workers=2")
    shutil.copytree(killed, tmp_path / "older")
    as_version_0_1(tmp_path / "older")
    # the folder is moved too: nothing in it may refer to the old place
    killed.rename(tmp_path / "moved")
    for resumed in (
        call("train.py", "resume=moved"),
        call("train.py", "resume=older", "data.num_workers=0"),
    ):
        assert resumed.returncode == 0, resumed.stderr
    for folder in ("moved", "older"):
        assert_same_end(tmp_path / "through", tmp_path / folder)


def assert_same_end(through, resumed):
    for name in ("best", "last"):
        one, other = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for folder in (through, resumed)
        )
        assert one["epoch"] == other["epoch"]
        for weights in ("state_dict", "current_model_state"):
            assert one[weights].keys() == other[weights].keys()
            for key, value in one[weights].items():
                assert torch.equal(value, other[weights][key]), key
        scores = [c["callbacks"]["RunCheckpoint:best"]["best_model_score"] for c in (one, other)]
        assert scores[0] == scores[1]
    for name in ("metrics.json", "predictions.csv", "tiles.csv"):
        assert (through / name).read_text() == (resumed / name).read_text()
    auroc = events_of(resumed).Scalars("val/auroc")
    assert [event.step for event in auroc] == [0, 1, 2]


def test_a_sweep_continues_after_a_failure_and_resumes_unfinished_jobs(call, tiny, tmp_path):
    axes = ("model=strided,maxpool", "data.road_share=0.05,7")
    process = call("train.py", "-m", *tiny, *axes, "hydra.sweep.dir=sweep")
    assert_fails_with(process, "data.road_share-7+model-maxpool failed", "data.road_share=7")
    assert "2 of 4 jobs failed" in process.stderr
    jobs = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert jobs == [
        f"data.road_share-{share}+model-{model}"
        for share in ("0.05", "7")
        for model in ("maxpool", "strided")
    ]
    rows = list(csv.DictReader((tmp_path / "sweep" / "summary.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]
    assert [row["model"] for row in rows] == ["maxpool", "strided"] * 2
    done = tmp_path / "sweep" / jobs[0]
    assert json.loads((done / "metrics.json").read_text())["test/auroc"] == pytest.approx(
        float(rows[0]["test/auroc"]), rel=1e-5
    )

    before = (done / "metrics.json").stat().st_mtime_ns
    (tmp_path / "sweep" / jobs[1] / "metrics.json").unlink()
    again = call("train.py", "resume=sweep")
    assert again.returncode == 1
    assert again.stdout.count("nothing to do") == 1
    assert (done / "metrics.json").stat().st_mtime_ns == before
    rows = list(csv.DictReader((tmp_path / "sweep" / "summary.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]


class Steps:
    """The only property of a trainer that the optimiser's schedule needs."""

    def __init__(self, steps):
        self.estimated_stepping_batches = steps


def train_with_ghost_batches(start, datamodule, epochs, ghosts):
    """Trains in one process; each of the equal parts of a batch is a ghost batch.

    Each part is normalised by its own statistics and the gradients of the parts are averaged. The
    running statistics are those of the first part, as DDP sends them from rank zero to the others.
    """
    model = RoadClassifier.load_from_checkpoint(start)
    model.trainer = trainer = Steps(epochs * len(datamodule.train_dataloader()))
    assert trainer.estimated_stepping_batches == 8
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    model.train()
    for epoch in range(epochs):
        datamodule.epoch = epoch
        for tiles, labels in datamodule.train_dataloader():
            optimizer.zero_grad()
            parts = zip(tiles.chunk(ghosts), labels.chunk(ghosts), strict=True)
            for ghost, (own_tiles, own_labels) in enumerate(parts):
                statistics = [value.clone() for value in model.buffers()]
                logits = model(own_tiles).squeeze(1)
                loss = nn.functional.binary_cross_entropy_with_logits(logits, own_labels.float())
                (loss / ghosts).backward()
                if ghost > 0:
                    for value, first in zip(model.buffers(), statistics, strict=True):
                        value.copy_(first)
            optimizer.step()
            schedule.step()
    return model.network.state_dict()


def test_two_processes_train_as_one_with_two_ghost_batches(run, with_masks, tmp_path):
    torch.manual_seed(0)
    settings = (
        *(*with_masks, "data.num_workers=0", "data.batch_size=32"),
        "data.tiles_per_epoch=128",
    )
    datamodule = instantiate(composed("train", *settings).data, _convert_="all")
    datamodule.setup()
    model = RoadClassifier(mean=datamodule.mean, std=datamodule.std)
    start = saved(tmp_path / "start.ckpt", model)
    process = run(
        *("train.py", *settings, "trainer=ddp", "trainer.max_epochs=2"),
        *(f"init_from={start}", "trainer.precision=32-true", "hydra.run.dir=run"),
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("TensorBoard: ") == 1
    run_dir = tmp_path / "run"
    assert len(list((run_dir / "panels").glob("epoch_*.png"))) == 2
    predictions = list(csv.DictReader((run_dir / "predictions.csv").read_text().splitlines()))
    assert len(predictions) == len(datamodule.tiles_of("val")) + len(datamodule.tiles_of("test"))

    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    found = last["current_model_state"]
    ghosts, whole = (
        train_with_ghost_batches(start, datamodule, epochs=2, ghosts=count) for count in (2, 1)
    )
    for name, value in model.network.state_dict().items():
        after = found[f"network.{name}"].double()
        moved = (after - value).norm()
        # here they are equal to the last bit; other machines may sum in another order
        assert (after - ghosts[name]).norm() <= 1e-4 * moved, name
        if "normalize" not in name and "num_batches" not in name:
            assert (after - whole[name]).norm() > 1e-2 * moved > 0, name


def test_a_sweep_over_several_devices_is_refused(call, tiny):
    process = call("train.py", "-m", *tiny, "trainer=ddp", "seed=1,2")
    assert_fails_with(process, "trainer.devices", "launch the sweep again")


def test_fine_tuning_copies_all_but_the_first_layer_when_the_bands_differ(call, tiny, tmp_path):
    first = call("train.py", *tiny, "debug=one_batch", "hydra.run.dir=first")
    assert first.returncode == 0, first.stderr
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    process = call("train.py", *tiny, f"init_from={best}", "data.bands=[1,2]", "debug=one_batch")
    assert process.returncode == 0, process.stderr
    assert "it had 3 bands, the data has 2" in process.stdout
    other = call("train.py", *tiny, f"init_from={best}", "model.head=gap", "hydra.run.dir=o")
    assert_fails_with(other, str(best), "init_from", "model.head")


def test_the_help_page_imports_none_of_the_slow_packages():
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", REPOSITORY / "train.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "optimized_metric: val/auroc" in imported.stdout
    names = {line.rpartition("|")[2].strip() for line in imported.stderr.splitlines()}
    assert "hydra" in names
    slow = {"torch", "pytorch_lightning", "rasterio", "matplotlib", "pandas", "numpy", "rich"}
    assert not names & slow


def test_errors_in_the_command_are_one_line(call, tiny):
    imagery = "data=massachusetts"
    assert_fails_with(call("train.py", imagery, "hydra.run.dir=a"), "data.root")
    nowhere = call("train.py", imagery, "data.root=nowhere", "hydra.run.dir=b")
    assert_fails_with(nowhere, "nowhere", "data.root")
    assert_fails_with(call("train.py", "resume=nowhere"), "nowhere", "resume")
    untrained = call("train.py", *tiny, "init_from=no.ckpt", "hydra.run.dir=c")
    assert_fails_with(untrained, "no.ckpt", "init_from")
    unknown = call("train.py", *tiny, "optimized_metric=val/acc", "hydra.run.dir=d")
    assert_fails_with(unknown, "optimized_metric=val/acc", "val/auroc", "test/f1_with_ignored")


PROBE = """
import gc
import json
import os
import threading

import psutil
import pytorch_lightning as pl
import torch
from hydra.experimental.callback import Callback
from matplotlib import _pylab_helpers

TYPES = {
    "tensors": torch.Tensor,
    "modules": torch.nn.Module,
    "data modules": pl.LightningDataModule,
    "trainers": pl.Trainer,
}


class Probe(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        gc.collect()
        alive = [type(item) for item in gc.get_objects()]
        # PyTorch's cache of shapes keeps tensors without data of every export, 0.3 MB each.
        alive = [each for each in alive if each.__name__ != "FakeTensor"]
        record = {
            "files": psutil.Process().num_fds(),
            "threads": threading.active_count(),
            "figures": len(_pylab_helpers.Gcf.figs),
            **{name: sum(issubclass(t, base) for t in alive) for name, base in TYPES.items()},
        }
        with open(os.environ["PROBE_FILE"], "a") as file:
            file.write(json.dumps(record) + "\\n")
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
def test_a_sweep_leaves_nothing_behind_in_its_process(run, with_masks, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    process = run(
        "train.py",
        "-m",
        *with_masks,
        "debug=one_batch",
        "seed=range(0,3)",
        "+hydra.callbacks.probe._target_=probe.Probe",
        PYTHONPATH=str(tmp_path),
        PROBE_FILE=str(tmp_path / "probe.jsonl"),
    )
    assert process.returncode == 0, process.stderr
    records = [json.loads(line) for line in (tmp_path / "probe.jsonl").read_text().splitlines()]
    assert len(records) == 3
    assert records[2] == records[1], records
    assert records[2]["trainers"] <= 1
