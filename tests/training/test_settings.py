"""Wrong settings of ``train.py``: one line each, before anything is read."""

import pytest

from tests.helpers.composed import changed
from tests.helpers.wrong_settings import cases
from vbp_lightning.errors import UserError
from vbp_lightning.training.settings import check_settings

METRICS = "val/loss or val/threshold or val/auroc or val/average_precision or val/balanced"
UPSAMPLINGS = "deconv or deconv_normalized or nearest or bilinear or resize_conv or unpool"

WRONG = f"""
seed=                       a 1.5 true null [1] {{a:1}}  : a whole number
seed=                       -1                           : at least 0
seed=                       4294967296                   : below 4294967296
threads=                    0 -2                         : at least 1 or auto
threads=                    abc 1.5 null [2] true        : a whole number or auto
tags=                       quick 3 null true            : a list in square brackets
check=                      maybe 1 null [true]          : true or false
tta=                        8 yes_please null            : true or false
resume=                     true [a]                     : a path or null
init_from=                  true [a.ckpt]                : a path or null
paths.output_dir=           null true [a]                : a path
upsampling.name=            foo DECONV                   : {UPSAMPLINGS}
upsampling.name=            3 null                       : text
upsampling.name=            [] [deconv,deconv]           : text or a list of different names
model.learning_rate=        x true null [0.1] nan        : a number
model.learning_rate=        inf                          : a finite number
model.learning_rate=        1e+39 1e+300                 : at most 1e+38
model.learning_rate=        0 -1                         : above 0
model.weight_decay=         x null [1] nan               : a number
model.weight_decay=         -1 -0.5                      : at least 0
model.architecture=         vgg 3 null                   : strided or maxpool
model.head=                 big null                     : hidden or gap
trainer.max_epochs=         -1 0                         : at least 1
trainer.max_epochs=         abc 1.5 true null [3]        : a whole number
+trainer.min_epochs=        0                            : at least 1 or null
+trainer.max_steps=         0                            : at least 1 or -1
+trainer.limit_val_batches= 0                            : at least 1 or above 0 or null
+trainer.limit_val_batches= 1.5                          : a whole number or at most 1 or null
+trainer.limit_val_batches= abc [1]                      : a whole number or a number or null
+trainer.limit_train_batches= 0 -1                       : at least 1 or above 0 or null
+trainer.check_val_every_n_epoch= 0                      : at least 1
+trainer.accumulate_grad_batches= 0 -2                   : at least 1
+trainer.gradient_clip_val= 0 -1                         : above 0 or null
+trainer.gradient_clip_algorithm= sum 2                  : norm or value or null
+trainer.overfit_batches=   -1                           : at least 0
trainer.num_sanity_val_steps= -2                         : at least -1 or null
trainer.num_sanity_val_steps= a 0.5                      : a whole number or null
trainer.log_every_n_steps=  0                            : at least 1 or null
trainer.accelerator=        gpus 3 null                  : auto or cpu or gpu or cuda
trainer.devices=            0                            : at least 1 or -1 or a list
trainer.num_nodes=          0                            : at least 1
trainer.num_nodes=          two                          : a whole number
trainer.strategy=           3 null [ddp]                 : text
trainer.precision=          8 half                       : auto or 32-true or bf16-mixed
trainer.deterministic=      maybe 1                      : true or false or warn or auto or null
trainer.enable_model_summary= no_way 1                   : true or false or null
trainer.use_distributed_sampler= true                    : false
+trainer.profiler=          3 [simple]                   : text or a mapping
+trainer.profiler=          {{a:1}}                      : null or name a class
callbacks.panels.tiles=     3 0 -1                       : at least 4
callbacks.panels.tiles=     many 4.5 null [4]            : a whole number
callbacks.panels.upsampling= foo                         : {UPSAMPLINGS}
callbacks.scores.tiles=     0                            : at least 1
callbacks.scores.tiles=     many                         : a whole number
callbacks.best.monitor=     foo val/acc                  : {METRICS}
callbacks.best.mode=        lowest null                  : min or max
callbacks.best.filename=    null 3                       : text
callbacks.progress.leave=   maybe 1                      : true or false
callbacks.averaging.eta=    -1                           : at least 0
callbacks.averaging.eta=    x [5] true                   : a number
callbacks.panels=           5 foo                        : null or name a class
+callbacks.own._target_=    vbp_lightning.Nothing no.Where : the full name of a class of Callbacks
+callbacks.own._target_=    zipfile.ZipFile torch.nn.Linear : the full name of a class of Callbacks
logger.tensorboard._target_= os.system : the full name of a class of Loggers
model._target_= os.system torch.nn.Linear : the full name of a class of RoadClassifiers
data._target_= shutil.rmtree : the full name of a class of RoadTileDataModules
trainer._target_= subprocess.Popen : the full name of a class of Trainers
+trainer.profiler._target_= zipfile.ZipFile : the full name of a class of Profilers
logger.tensorboard.default_hp_metric=   5                            : true or false
+logger.tensorboard.flush_secs=         0                            : at least 1
data.batch_size=            1 0 -4                       : at least 2
data.batch_size=            x 8.5 null [16]              : a whole number
data.tile_size=             0 -96                        : at least 1
data.tile_size=             50 4 97                      : a multiple of 8, the distance
data.context=               4                            : a multiple of 8, the distance
data.tile_size=             x 9.6 [96]                   : a whole number
data.stride=                0                            : at least 1 or null
data.context=               -8                           : at least 0
data.road_share=            0                            : above 0
data.road_share=            2                            : at most 1
data.road_share=            x [0.1]                      : a number
data.max_invalid=           1.5                          : at most 1
data.val_fraction=          x null                       : a number
data.split_by=              tile                         : scene or block
data.num_workers=           -1                           : at least 0
data.num_workers=           257                          : at most 256
data.num_workers=           many [2]                     : a whole number
data.memory=                0                            : above 0
data.tiles_per_epoch=       0                            : at least 1 or null
data.cover_edges=           1                            : true or false
data.augment.contrast=      1                            : below 1
data.augment.jitter=        -1                           : at least 0
data.augment.flips=         5                            : true or false
data.source.scenes=         2                            : at least 3
data.source.size=           50                           : at least 192
data.source.seed=           a                            : a whole number
"""

STOPPING = f"""
callbacks.early_stopping.patience= abc 1.5 null [3]      : a whole number
callbacks.early_stopping.patience= 0 -1                  : at least 1
callbacks.early_stopping.monitor=  foo                   : {METRICS}
callbacks.early_stopping.mode=     up                    : min or max
+callbacks.early_stopping.min_delta= -1                  : at least 0
"""

EVIDENCE = """
data.evidence.share=               0                     : above 0
data.evidence.share=               2                     : at most 1
data.evidence.kinds=               [glued]               : a list in square brackets
data.evidence.until=               0                     : above 0
data.evidence.dilation=            -1                    : at least 0
data.evidence.feather=             wide null             : a number
data.evidence.shuffled=            5                     : true or false
"""

FLOW = """
callbacks.gradient_flow.every=     0                     : at least 1
callbacks.gradient_flow.every=     often 2.5             : a whole number
"""


def lines_of(*settings, groups=()):
    try:
        check_settings(changed("train", groups, *settings))
    except UserError as error:
        return list(error.lines)
    return []


@pytest.mark.parametrize(
    ("group", "setting", "allowed"),
    [
        *(((), *case) for case in cases(WRONG)),
        *((("callbacks=early_stopping",), *case) for case in cases(STOPPING)),
        *((("callbacks=gradient_flow",), *case) for case in cases(FLOW)),
        *((("evidence=composites",), *case) for case in cases(EVIDENCE)),
    ],
)
def test_a_wrong_value_is_one_line_with_what_is_allowed(group, setting, allowed):
    (line,) = lines_of(setting, groups=group)
    key, _, value = setting.lstrip("+").partition("=")
    given, _, must = line.partition(": must be ")
    assert given.startswith(f"{key}=")
    assert must.startswith(allowed)
    if value.isalnum() and value not in ("true", "null", "nan", "inf"):
        assert given == f"{key}={value}"


@pytest.mark.parametrize(
    ("setting", "choices"),
    [
        ("+sede", "seed, threads, trainer"),
        ("+trainer.epochs", "accelerator, devices"),
        ("+trainer.callbacks", "accelerator, devices"),
        ("+trainer.plugins", "accelerator, devices"),
        ("+trainer.limit_predict_batches", "accelerator, devices"),
        ("+model.depth", "architecture, head, learning_rate, weight_decay"),
        ("+model.mean", "architecture, head, learning_rate, weight_decay"),
        ("+callbacks.panels.rows", "upsampling, tiles"),
        ("+callbacks.progress.colour", "refresh_rate, leave"),
        ("+logger.tensorboard.folder", "save_dir, name"),
        ("+data.colour", "bands, alpha, nodata"),
        ("+data.augment.zoom", "flips, rotations"),
        ("+data.source.colour", "root, seed"),
        ("+paths.cache", "data_dir, output_dir"),
        ("+upsampling.factor", "name"),
    ],
)
def test_an_unknown_setting_is_one_line_with_the_choices(setting, choices):
    (line,) = lines_of(f"{setting}=1")
    assert line.startswith(f"{setting.lstrip('+')}: is no")
    assert f"choose among {choices}" in line


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ("+trainer.min_epochs=30",),
            "trainer.min_epochs=30: must be at most trainer.max_epochs=20",
        ),
        (
            ("+trainer.min_steps=9", "+trainer.max_steps=5"),
            "trainer.min_steps=9: must be at most trainer.max_steps=5",
        ),
        (
            ("+trainer.check_val_every_n_epoch=21",),
            "trainer.check_val_every_n_epoch=21: must be at most trainer.max_epochs=20, or the run"
            " is never validated",
        ),
        (
            ("+callbacks.x._target_=pytorch_lightning.callbacks.EarlyStopping",),
            "callbacks.x.monitor: is not set; add callbacks.x.monitor=… to the command",
        ),
        (("optimized_metric=val/acc",), "optimized_metric=val/acc: choose one of explanation/"),
        (("data.val_fraction=-1",), "data.val_fraction=-1.0, data.test_fraction=0.15: must not"),
        (("data.source=5",), "data.source=5: is no layout: choose one with data="),
        (("+data.evidence.kinds=[]",), "data.evidence.kinds=[]: name at least one of pasted, seam"),
        (("data.stretch=[98,2]",), "data.stretch=[98, 2]: give two percentiles"),
        (("trainer.devices=abc",), "trainer.devices=abc: must be a whole number or -1 or a list"),
    ],
)
def test_rules_about_several_settings_are_one_line(settings, line):
    (found,) = lines_of(*settings)
    assert found.startswith(line)


def test_an_unknown_upsampling_in_a_list_is_one_line_with_those_that_exist():
    (line,) = lines_of("upsampling.name=[deconv,foo]")
    assert "a list in square brackets whose values are deconv or deconv_normalized or " in line


def test_an_empty_list_of_upsamplings_is_one_line():
    (line,) = lines_of(groups=("upsampling=[]",))
    assert line.startswith("upsampling=[]: name at least one of deconv, ")


def test_all_wrong_settings_are_reported_together():
    wrong = ("seed=a", "trainer.max_epochs=0", "model.head=x", "data.batch_size=1", "threads=no")
    assert {line.partition(":")[0] for line in lines_of(*wrong)} == set(wrong)


GOOD = """
seed=0 threads=3 threads=auto tags=[2024,a] resume=2024 init_from=7 trainer.devices=[0,1]
trainer.devices=-1 trainer.devices=auto trainer.precision=32 trainer.precision=64-true
+trainer.limit_val_batches=1.0 +trainer.limit_val_batches=1 +trainer.max_steps=-1
+trainer.gradient_clip_val=1 +trainer.fast_dev_run=true callbacks.best.monitor=val/loss
callbacks.panels=null callbacks.averaging.eta=0 model.weight_decay=0 data.augment=false
data.augment=null data.num_workers=0 data.batch_size=2 data.root=2024 data.split_file=5
paths.data_dir=2024 logger=null
"""


@pytest.mark.parametrize("setting", GOOD.split())
def test_a_right_value_is_taken(setting):
    assert lines_of(setting) == []


@pytest.mark.parametrize(
    "groups",
    [
        *(("trainer=ddp",), ("trainer=gpu",), ("debug=overfit",), ("debug=profiler",)),
        *(("debug=one_batch",), ("callbacks=early_stopping",), ("callbacks=gradient_flow",)),
        *(("data=csv", "data.root=x"), ("data=osm", "data.root=x"), ("experiment=clever_hans",)),
    ],
)
def test_the_choices_of_the_groups_are_right(groups):
    assert lines_of(groups=groups) == []
