"""The folders that the jobs of a sweep leave."""

import json

from vbp_lightning.training.sweep_table import SHOWN_METRICS


def write_job(folder, overrides, metrics=None, error=None, tags=(), **settings):
    """The folder of a job: finished with metrics, failed with an error, or unfinished."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    config = {"tags": list(tags), **settings}
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(config))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if error is not None:
        (folder / "failed.txt").write_text(error)


def write_sweep(folder):
    """Two networks with three seeds each, a failed job and an unfinished one."""
    for model in ("strided", "maxpool"):
        for seed in (1, 2, 3):
            value = seed / 10 + (model == "maxpool") / 3
            metrics = dict.fromkeys(SHOWN_METRICS, value) | {"threshold": 0.4, "test/f1": value}
            overrides = [f"model={model}", f"seed={seed}", "threads=1", "resume=null"]
            write_job(folder / f"{model}-{seed}", overrides, metrics, tags=[model, "first"])
    write_job(folder / "gap-1", ["model=strided", "model.head=gap", "threads=1"], error="no space")
    write_job(folder / "gap-2", ["model=strided", "model.head=gap", "threads=1"])
    return folder
