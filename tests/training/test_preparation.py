"""The values that replace ``auto``."""

import pytest
from omegaconf import OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.training import preparation


def config(**trainer):
    return OmegaConf.create(
        {
            "trainer": {"accelerator": "cpu", "devices": 1, "precision": "auto", **trainer},
            "data": {"num_workers": "auto"},
            "model": {"architecture": "strided"},
            "threads": "auto",
        }
    )


@pytest.mark.parametrize(
    ("features", "precision"),
    [
        ({}, "32-true"),
        ({"avx512_f": True}, "32-true"),
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
    ],
)
def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch, features, precision):
    monkeypatch.setattr(preparation.torch.cpu, "get_capabilities", lambda: features)
    cfg = config()
    assert precision in preparation.resolve_auto_settings(cfg)
    assert cfg.trainer.precision == precision


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that torch finds; it has bfloat16 instructions or not."""

    def found(has_bfloat16=True):
        cuda = preparation.torch.cuda
        monkeypatch.setattr(cuda, "is_available", lambda: True)
        monkeypatch.setattr(cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
        monkeypatch.setattr(cuda, "get_device_name", lambda: "a card")

    return found


def test_auto_takes_the_gpu_that_is_there(gpu):
    settings = {"accelerator": "auto", "deterministic": "auto"}
    cfg = config(**settings)
    line = preparation.resolve_auto_settings(cfg)
    assert line.startswith("cpu (")
    assert "trainer=gpu" in line
    assert (cfg.trainer.accelerator, cfg.trainer.deterministic) == ("cpu", True)
    gpu()
    cfg = config(**settings)
    line = preparation.resolve_auto_settings(cfg)
    assert line.startswith("gpu (a card; trainer=cpu for the processor), ")
    assert (cfg.trainer.accelerator, cfg.trainer.deterministic) == ("gpu", "warn")
    assert cfg.trainer.precision == "bf16-mixed"
    gpu(has_bfloat16=False)
    cfg = config(**settings)
    preparation.resolve_auto_settings(cfg)
    assert cfg.trainer.precision == "32-true"
    assert preparation.resolve_auto_settings(config()).startswith("cpu, ")


def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    for name in ("gpu", "cuda", "mps"):
        with pytest.raises(UserError, match=rf"trainer.accelerator={name}: .*trainer=cpu"):
            preparation.prepare_run(config(accelerator=name), tmp_path)


def test_networks_of_other_packages_are_trained_in_float32_on_a_cpu(monkeypatch, gpu):
    gpu()
    monkeypatch.setattr(preparation.torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    for accelerator, precision in (("cpu", "32-true"), ("gpu", "bf16-mixed")):
        cfg = config(accelerator=accelerator)
        cfg.model.architecture = "custom"
        preparation.resolve_auto_settings(cfg)
        assert cfg.trainer.precision == precision


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 0), (4, 0), (8, 2), (64, 2)])
def test_workers_and_threads_follow_the_cores(monkeypatch, cores, workers):
    monkeypatch.setattr(preparation, "available_cores", lambda: cores)
    cfg = config()
    preparation.resolve_auto_settings(cfg)
    assert cfg.data.num_workers == workers
    assert cfg.threads == cores


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(preparation, "available_cores", lambda: 8)
    cfg = config(devices=2)
    preparation.resolve_auto_settings(cfg)
    assert cfg.threads == 4


@pytest.mark.parametrize(("accelerator", "synchronised"), [("cpu", False), ("gpu", True)])
def test_batch_norms_are_synchronised_on_gpus(monkeypatch, accelerator, synchronised):
    monkeypatch.setattr(preparation, "available_cores", lambda: 8)
    cfg = config(accelerator=accelerator, devices=2, sync_batchnorm="auto")
    preparation.resolve_auto_settings(cfg)
    assert cfg.trainer.sync_batchnorm is synchronised


def test_explicit_settings_are_kept():
    cfg = OmegaConf.create(
        {
            "trainer": {"accelerator": "cpu", "devices": 1, "precision": "64-true"},
            "data": {"num_workers": 3},
            "threads": 5,
        }
    )
    before = OmegaConf.to_container(cfg)
    preparation.resolve_auto_settings(cfg)
    assert OmegaConf.to_container(cfg) == before
