"""The settings of a run: what ``auto`` means on this machine, and how they are kept."""

import ctypes
import gc
import logging
import os
import platform
import warnings
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vbp_lightning.cli import FAILURE_FILE, leave_disk_errors_to_the_main_thread
from vbp_lightning.errors import UserError
from vbp_lightning.files import replacing
from vbp_lightning.training.folder import is_first_process
from vbp_lightning.training.resumption import STORED_CONFIG

# numbers of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 matrix instructions (AMX or AVX512-BF16).

    Without them autocast emulates bfloat16 and slows training down.
    """
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def resolve_auto_settings(cfg: DictConfig) -> str:
    """Replaces every ``auto`` of a training config by what suits this machine, in place.

    The rule depends on the processor alone, so that a seed gives the same result on a machine
    each time. Activations are always laid out channels last, the fast layout for these networks.

    - ``trainer.precision``: ``bf16-mixed`` where bfloat16 runs in hardware, else ``32-true``;
    - ``data.num_workers``: none on a CPU of up to 4 cores, where they would only take cores from
      the training step, else 2 (4 beside a GPU);
    - ``threads``: every available core, shared by the processes of one machine.

    Args:
        cfg: The composed config of ``train.py``.

    Returns:
        One line that says what is used.
    """
    cores = available_cores()
    trainer = cfg.trainer
    on_cpu = trainer.accelerator == "cpu"
    processes = trainer.devices if on_cpu and isinstance(trainer.devices, int) else 1
    if trainer.precision == "auto":
        trainer.precision = "bf16-mixed" if multiplies_bfloat16() else "32-true"
    if cfg.data.num_workers == "auto":
        cfg.data.num_workers = (0 if cores <= 4 else 2) if on_cpu else min(4, cores - 1)
    if cfg.threads == "auto":
        cfg.threads = max(1, cores // processes)
    return (
        f"{trainer.accelerator}, {cfg.threads} threads of {cores} cores, {trainer.precision},"
        f" channels last, {cfg.data.num_workers} workers"
    )


def keep_freed_memory() -> None:
    """Lets the C library keep large freed blocks instead of giving them back to the system.

    An activation of a batch is tens of megabytes, which glibc maps afresh each time: the page
    faults cost a third of a max-pool training step. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_freed_memory() -> None:
    """Returns to the system what a job of a sweep has left unused."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def prepare_run(cfg: DictConfig, run_dir: Path) -> None:
    """Settles the settings of a run, prints and stores them; nothing is trained yet.

    Args:
        cfg: The composed config of ``train.py``; its ``auto`` values are replaced.
        run_dir: The run's folder.

    Raises:
        UserError: A sweep asks for several devices, or the folder holds a run of other settings.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        _refuse_several_devices(cfg)
    chosen = resolve_auto_settings(cfg)
    for key in ("root", "split_file"):
        if cfg.data.get(key) is not None:
            cfg.data[key] = str(Path(str(cfg.data[key])).absolute())
    torch.set_num_threads(cfg.threads)
    keep_freed_memory()
    leave_disk_errors_to_the_main_thread()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Lightning's own use of a torch function that is to go; nothing that a user could mend
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="pytorch_lightning")
    if is_first_process():
        _store(cfg, run_dir)
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)
        print(f"Run: {run_dir}\nUsing {chosen}", flush=True)


def _refuse_several_devices(cfg: DictConfig) -> None:
    trainer = cfg.trainer
    if trainer.devices != 1 or trainer.get("num_nodes", 1) != 1:
        raise UserError(
            "a sweep on several devices is refused (trainer.devices): Lightning starts the other"
            " processes with the same command line, and each would launch the sweep again; sweep"
            " with trainer.devices=1, spread jobs with hydra/launcher=joblib or submitit_slurm, or"
            " start each run by itself"
        )


def _store(cfg: DictConfig, run_dir: Path) -> None:
    # references to the run's own folder stay references, so that the folder may be moved
    settings = OmegaConf.to_container(cfg) | {"resume": None}  # type: ignore[operator]
    stored = run_dir / STORED_CONFIG
    if stored.is_file() and cfg.resume is None and OmegaConf.load(stored) != settings:
        raise UserError(
            f"{run_dir}: holds a run with other settings (hydra.run.dir, hydra.sweep.dir);"
            f" choose another folder, or go on with that one by resume={run_dir}"
        )
    with replacing(stored) as temporary:
        OmegaConf.save(OmegaConf.create(settings), temporary)
