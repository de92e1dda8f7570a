"""What precedes training: values for ``auto``, the stored config, the process settings."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from vbp_lightning.cli import STORED_CONFIG, explain_failure
from vbp_lightning.errors import UserError
from vbp_lightning.jobs import is_first_process
from vbp_lightning.models import CheckpointError, read_checkpoint
from vbp_lightning.settings import gpus
from vbp_lightning.training.folder import METRICS_FILE, write_config
from vbp_lightning.training.resumption import add_origin, asked_settings

_LONGEST = 300
"""Characters of an exception's message that an error quotes."""

# constants of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return len(allowed) if allowed else os.cpu_count() or 1


def multiplies_bfloat16(accelerator: str) -> bool:
    """Whether an accelerator has bfloat16 matrix instructions (of a CPU, AMX or AVX512-BF16).

    Without them autocast emulates bfloat16 and slows training down.

    Args:
        accelerator: ``cpu``, or another name of one of Lightning's accelerators.
    """
    if accelerator != "cpu":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def resolve_auto_settings(cfg: DictConfig) -> str:
    """Replaces every ``auto`` of a training config by a value for this machine, in place.

    The rule depends on the hardware alone, so that a seed gives the same result each time on one
    machine. Activations are always channels last, the fast memory layout for these networks.

    - ``trainer.accelerator``: ``gpu`` if torch finds a CUDA or ROCm GPU, else ``cpu``;
    - ``trainer.precision``: ``bf16-mixed`` if the GPU or the processor has bfloat16 instructions,
      else ``32-true``; ``32-true`` too for networks of other packages on a CPU, where a training
      step in bfloat16 took 1.3 (ResNet-18) to 2.4 times as long (MobileNetV3-Small);
    - ``trainer.deterministic``: true on a CPU, else ``warn``, as CUDA has no deterministic kernel
      for the backward pass of the global max pool;
    - ``trainer.sync_batchnorm``: true except on a CPU, where torch does not implement it;
    - ``data.num_workers``: 0 on a CPU of up to 4 cores, where workers would only take cores from
      the training step, else 2 (4 beside a GPU);
    - ``threads``: every available core, divided among the processes of one machine.

    Args:
        cfg: The composed config of ``train.py``.

    Returns:
        One line that states the values, and what to type for the other accelerator.
    """
    cores = available_cores()
    trainer = cfg.trainer
    other = ""
    if trainer.accelerator == "auto":
        trainer.accelerator = "gpu" if "cuda" in gpus() else "cpu"
        other = _other_accelerator(trainer.accelerator)
    on_cpu = trainer.accelerator == "cpu"
    processes = trainer.devices if on_cpu and isinstance(trainer.devices, int) else 1
    if trainer.precision == "auto":
        is_slow = on_cpu and OmegaConf.select(cfg, "model.architecture") == "custom"
        is_fast = multiplies_bfloat16(trainer.accelerator) and not is_slow
        trainer.precision = "bf16-mixed" if is_fast else "32-true"
    if trainer.get("deterministic") == "auto":
        trainer.deterministic = True if on_cpu else "warn"
    if trainer.get("sync_batchnorm") == "auto":
        trainer.sync_batchnorm = not on_cpu
    if cfg.data.num_workers == "auto":
        cfg.data.num_workers = (0 if cores <= 4 else 2) if on_cpu else min(4, cores - 1)
    if cfg.threads == "auto":
        cfg.threads = max(1, cores // processes)
    return (
        f"{trainer.accelerator}{other}, {cfg.threads} threads of {cores} cores,"
        f" {trainer.precision}, channels last, {cfg.data.num_workers} workers"
    )


def _other_accelerator(chosen: str) -> str:
    """What to type for the accelerator that was not chosen, in brackets."""
    if chosen == "gpu":
        return f" ({torch.cuda.get_device_name()}; trainer=cpu for the processor)"
    if "mps" in gpus():
        return " (trainer.accelerator=mps for Apple's GPU, which has not been tried yet)"
    if torch.version.cuda is None and torch.version.hip is None:
        return " (this build of torch has no CUDA; with one that has, trainer=gpu)"
    return " (torch finds no GPU; trainer=gpu for one)"


def keep_freed_memory() -> None:
    """Lets glibc keep large freed blocks instead of returning them to the system.

    An activation of a batch takes tens of megabytes, for which glibc maps new pages each time.
    Measured: a training step of 0.154 s instead of 0.214 s (strided), 0.463 s instead of 0.914 s
    (maxpool). Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_freed_memory() -> None:
    """Returns the unused memory of a finished job of a sweep to the system."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def prepare_run(cfg: DictConfig, run_dir: Path) -> None:
    """Completes, prints and stores the settings of a run before its training.

    Args:
        cfg: The composed config of ``train.py``; its ``auto`` values are replaced.
        run_dir: The run's folder.

    Raises:
        UserError: There is no GPU for ``trainer=gpu``, a sweep asks for several devices, or the run
            has trained for more epochs than asked for.
    """
    trainer = cfg.trainer
    there = {"gpu", *gpus()} if gpus() else set()
    if trainer.accelerator in {"gpu", "cuda", "mps"} - there:
        raise UserError(
            f"trainer.accelerator={trainer.accelerator}: torch finds none on this machine;"
            " trainer=auto takes what is there, trainer=cpu the processor"
        )
    is_single = trainer.devices == 1 and trainer.get("num_nodes", 1) == 1
    if HydraConfig.get().mode == RunMode.MULTIRUN and not is_single:
        raise UserError(
            "a sweep on several devices is refused (trainer.devices): Lightning starts the other"
            " processes with the same command line, and each would launch the sweep again; sweep"
            " with trainer.devices=1, distribute jobs with hydra/launcher=joblib or"
            " submitit_slurm, or start each run by itself"
        )
    add_origin(cfg)
    chosen = resolve_auto_settings(cfg)
    torch.set_num_threads(cfg.threads)
    keep_freed_memory()
    last = run_dir / "checkpoints" / "last.ckpt"
    if cfg.resume is not None and last.is_file() and (trainer.max_epochs or -1) > 0:
        trained = read_checkpoint(last, config_key="resume")["epoch"] + 1
        if trained > trainer.max_epochs:
            raise UserError(
                f"{run_dir}: has trained for {trained} epochs, more than"
                f" trainer.max_epochs={trainer.max_epochs} (resume)"
            )
    if is_first_process():
        if cfg.resume is None or not (run_dir / STORED_CONFIG).is_file():
            _store(cfg, run_dir)
        print(f"Run: {run_dir}\nUsing {chosen}", flush=True)


def _store(cfg: DictConfig, run_dir: Path) -> None:
    write_config(asked_settings(cfg), run_dir / STORED_CONFIG)


class SettingsOfResumedRun(Callback):
    """Stores the settings of a resumed run, whose metrics are no longer final.

    All processes compare the stored settings and metrics with what is asked for; these are replaced
    only when all processes have met.

    Args:
        cfg: The composed config of ``train.py``, without ``auto`` values.
        run_dir: The run's folder.
    """

    def __init__(self, cfg: DictConfig, run_dir: Path) -> None:
        self._cfg = cfg
        self._run_dir = run_dir
        self._is_restored = False

    @contextmanager
    def refusing(self, checkpoint: Path | None) -> Iterator[None]:
        """Refuses a checkpoint whose training state cannot be restored, in one line.

        Args:
            checkpoint: The checkpoint that ``Trainer.fit`` continues from, inside of the block;
                None for none.

        Raises:
            CheckpointError: What the checkpoint says about optimiser, schedule, epochs or callbacks
                does not fit.
        """
        try:
            yield
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if checkpoint is None or self._is_restored or explain_failure(error) is not None:
                raise
            raise CheckpointError(
                f"{checkpoint}: the training cannot be continued from it (resume):"
                f" {type(error).__name__}: {shorten(str(error), _LONGEST)}; put an older copy back,"
                " or start a new run, with init_from=… to keep the weights"
            ) from error

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything is restored before the first batch."""
        self._is_restored = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything is restored, and there was no sanity check."""
        self._is_restored = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Removes the metrics first: a run without them is never regarded as finished."""
        if stage == "fit" and trainer.is_global_zero and self._cfg.resume is not None:
            (self._run_dir / METRICS_FILE).unlink(missing_ok=True)
            _store(self._cfg, self._run_dir)
