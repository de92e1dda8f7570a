"""Damaged and forged files in the folders of runs and sweeps."""

import pytest
from omegaconf import OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.training.folder import finished_metrics
from vbp_lightning.training.resumption import add_origin, expand_resume
from vbp_lightning.training.stored_files import stored_mapping
from vbp_lightning.training.sweep import summarize

BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
WRONG = [
    *("", "5", "text", "[1, 2]", "a: [", "a: b: c", "\tx", "a: \x00", "{1: 2}", "? [1]\n: 2", BOMB),
    *("a: &a [*a]", "a: " + "[" * 60 + "]" * 60, "[" * 5000, "a: !!python/object:os.system {}"),
    *("a: ${", "- ${x}"),
]


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("name", [".hydra/run.yaml", ".hydra/config.yaml", "multirun.yaml"])
def test_a_damaged_yaml_is_one_line(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if text == "" and name == ".hydra/config.yaml":
        assert expand_resume([f"resume={tmp_path}"])  # no settings are those of the defaults
        return
    with pytest.raises(UserError) as caught:
        expand_resume([f"resume={tmp_path}"])
    (line,) = caught.value.lines
    assert str(path) in line
    assert "(resume" in line
    assert len(line) < 1000


@pytest.mark.parametrize("key", ["data", "trainer", "model", "callbacks", "paths"])
@pytest.mark.parametrize("value", [None, 5, "x", [1]])
def test_a_group_must_hold_settings(tmp_path, key, value):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create({"format": 2, key: value}), tmp_path / ".hydra/run.yaml")
    with pytest.raises(UserError, match=rf"run\.yaml: holds no settings under {key} \(resume\)"):
        expand_resume([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "stored",
    [
        {"hydra": 5},
        {"hydra": {"overrides": [1]}},
        {"hydra": {"overrides": {"task": "seed=1", "hydra": []}}},
        {"hydra": {"overrides": {"task": [5], "hydra": []}}},
        {"hydra": {"overrides": {"task": ["seed=1,2"]}}},
    ],
)
def test_a_sweep_without_overrides_is_one_line(tmp_path, stored):
    OmegaConf.save(OmegaConf.create(stored), tmp_path / "multirun.yaml")
    with pytest.raises(UserError, match=r"multirun\.yaml: names no overrides .*\(resume\)"):
        expand_resume([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "{", '{"a": "x"}', '{"a": {}}', "[" * 5000, '{"a": 1}}', "\ud800"]
)
def test_damaged_metrics_are_one_line(tmp_path, text):
    (tmp_path / "metrics.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read .*\(resume, hydra\.run"):
        finished_metrics(tmp_path)


def test_whole_files_are_read(tmp_path):
    (tmp_path / "metrics.json").write_text('{"a": 1, "b": NaN, "c": 0.25}')
    metrics = finished_metrics(tmp_path)
    assert metrics["a"] == 1
    assert metrics["b"] != metrics["b"]
    assert metrics["c"] == 0.25
    OmegaConf.save(OmegaConf.create({"a": {"b": "${c}"}, "c": [1, None]}), tmp_path / "a.yaml")
    assert stored_mapping(tmp_path / "a.yaml") == {"a": {"b": "${c}"}, "c": [1, None]}


def test_jobs_with_damaged_files_are_unfinished_in_the_summary(tmp_path):
    for number, (overrides, config, metrics) in enumerate(
        [
            ("[seed=1]", "tags: [a, 5]", '{"m": 1}'),
            ("5", "{}", "{}"),
            ("[", "[", "["),
            ("[a=1]", "", "["),
        ]
    ):
        (folder := tmp_path / f"job{number}" / ".hydra").mkdir(parents=True)
        (folder / "overrides.yaml").write_text(overrides)
        (folder / "config.yaml").write_text(config)
        (folder.parent / "metrics.json").write_text(metrics)
    table = summarize(tmp_path)
    assert table["status"].tolist() == ["done", "unfinished", "unfinished", "unfinished"]
    assert table["tags"].tolist()[0] == "a 5"


@pytest.mark.parametrize("value", [5, 0.5, True])
def test_a_number_in_the_place_of_a_path_is_a_path(value):
    cfg = OmegaConf.create({"init_from": value, "data": {"root": value, "split_file": value}})
    add_origin(cfg)
    assert cfg.data.split_file.endswith(str(value))
