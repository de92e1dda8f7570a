"""Wrong settings of ``explain.py``: one line each, before anything is read."""

import pytest
from hydra.utils import instantiate

from tests.helpers.composed import changed
from tests.helpers.wrong_settings import cases
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.settings import check_settings

WRONG = {
    "attribution": """
tiles=              0 -3                       : at least 1
tiles=              many 1.5 null [4]          : a whole number
split=              all null 3                 : train or val or test
scale=              both 1                     : each or shared
tta=                8 maybe                    : true or false or null
skip_unsupported=   5 null                     : true or false
target=             [road] true                : a whole number or text or null
device=             3 null                     : text
input=              true [a]                   : a path or null
input=              ""                       : the name of a file or folder or null
ckpt=               ""                       : the name of a file or folder or null
output=             ""                       : the name of a file or folder
ckpt=               true                       : a path or null
output=             null true                  : a path
data.root=          true                       : a path or null
upsampling.name=    cubic                      : deconv or
preprocess.std=     [0,1,1] [-1,1,1]           : a list in square brackets whose values are above 0
preprocess.std=     0.2 null                   : a list in square brackets
preprocess.scale=   0 -255                     : above 0
preprocess.scale=   x null                     : a number
preprocess.resize=  0                          : at least 1 or null
preprocess.crop=    big                        : a whole number or null
preprocess.mean=    [a,b,c] 0.5                : a list in square brackets
method.visual_backprop.skip=      -1           : at least 0
method.visual_backprop.weighting= max          : mean or gradient or channels
+method.visual_backprop.chunk=    0            : at least 1
""",
    "benchmark": """
tuned=              0 x                        : a
perturbed=          -1                         : at least 0
cascaded=           -1                         : at least 0
draw=               -1                         : at least 0
method.integrated_gradients.steps= 0 -1        : at least 1
method.integrated_gradients.baseline= white    : mean or zero
method.smoothgrad.noise=          -1           : at least 0
method.smoothgrad.noise=          x nan [1]    : a number
method.smoothgrad.samples=        0            : at least 1
method.occlusion.window=          0            : at least 1
method.occlusion.stride=          0            : at least 1
method.occlusion.fill=            black        : a number or mean or blur
method.lrp.epsilon=               -1           : at least 0
method.lrp.gamma=                 -1           : at least 0
method.saliency.form=             sum          : absolute or signed
method.grad_cam.relu=             5            : true or false
method.guided_backprop.unit=      [-1,0,0]     : a list in square brackets
method.symmetric_visual_backprop.rotations= 3  : 1 or 2 or 4
""",
    "class_model": """
steps=              0 -1                       : at least 1
steps=              x 2.5 null [3]             : a whole number
step=               -0.1                       : at least 0
penalty=            -1                         : at least 0
penalty=            x [1]                      : a number
penalty=            nan inf                    : a finite number
jitter=             -1                         : at least 0
blur=               -1                         : at least 0
snapshots=          0                          : at least 1
start=              grey                       : mean or zero or noise
tiles_of=           all                        : train or val or test
position=           5 [a,b]                    : a list in square brackets
position=           [1,2,3]                    : a list of at most 2 values
layer=              3 true                     : text or null
unit=               -1                         : at least 0
""",
    "clusters": """
clusters=           0                          : at least 1
descriptor=         pixels                     : peaks or masks
share=              0                          : above 0
share=              1.5                        : at most 1
margin=             -1                         : at least 0
replacements=       0                          : at least 1
typical=            0                          : at least 1
""",
    "counterfactual": """
replacements=       0                          : at least 1
margin=             -1                         : at least 0
feather=            -0.5                       : at least 0
draw=               x                          : a whole number
""",
    "feature_maps": """
tile=               -1                         : at least 0
channels=           0                          : at least 1
layer=              3                          : text or null
""",
    "filters": """
filters=            0                          : at least 1
filters=            x                          : a whole number
""",
    "fool": """
noise=              -1                         : at least 0
images=             -1                         : at least 0
steps=              0                          : at least 1
probability=        high [0.9] null            : a number
""",
    "maximal_patches": """
channels=           0                          : at least 1 or a list in square brackets
patches=            0                          : at least 1
""",
    "neighbors": """
queries=            0                          : at least 1 or a list in square brackets
neighbors=          0                          : at least 1
""",
    "projection": """
points=             0                          : at least 1
perplexity=         0 -3                       : above 0
perplexity=         x                          : a number
thumbnails=         0                          : at least 1
""",
    "scene": """
mode=               quick                      : seamless or tiles
stride=             3                          : a multiple of 2
stride=             0                          : at least 2
block=              100                        : a multiple of 8
block=              0                          : at least 8
blend=              max                        : mean or centre
scaling=            best                       : percentile or extremes or none
overwrite=          5                          : true or false
hardest=            -1                         : at least 0
threads=            0                          : at least 1 or null
trainer.devices=    0                          : at least 1 or -1
trainer.precision=  8                          : auto or 32-true
""",
}


def lines_of(task, *settings):
    cfg = changed("explain", (f"task={task}",), *settings)
    try:
        check_settings(cfg, instantiate(cfg.task))
    except UserError as error:
        return list(error.lines)
    return []


@pytest.mark.parametrize(
    ("task", "setting", "allowed"),
    [(task, *case) for task, table in WRONG.items() for case in cases(table)],
)
def test_a_wrong_value_is_one_line_with_what_is_allowed(task, setting, allowed):
    (line,) = lines_of(task, setting)
    given, _, must = line.partition(": must be ")
    assert given.startswith(setting.lstrip("+").partition("=")[0])
    assert must.startswith(allowed)


@pytest.mark.parametrize("task", WRONG)
def test_the_settings_of_every_task_are_right_and_others_unknown(task):
    assert lines_of(task) == []
    (line,) = lines_of(task, "+colour=red")
    assert line.startswith("colour: is no setting; choose among ckpt, network, input")
    (line,) = lines_of(task, "+method.visual_backprop.colour=red")
    assert line.startswith("method.visual_backprop.colour: is not an option; choose among")
    (line,) = lines_of(task, "+method.foo.colour=red")
    assert line.startswith("method.foo={'colour': 'red'}: is no method")
    (line,) = lines_of(task, "+task.colour=red")
    assert line == "task.colour: is no setting; options of a task are given as colour=…"


def test_a_band_needs_a_mean_and_a_deviation():
    (line,) = lines_of("attribution", "preprocess.bands=[1,2]")
    assert line.startswith("preprocess: 2 bands, 3 means and 3 deviations: give one per band")


def test_a_folder_may_have_a_number_as_its_name():
    settings = ("input=5", "output=2024", "ckpt=1", "data.root=2024", "data.split_file=3")
    cfg = changed("explain", ("task=attribution",), *settings)
    check_settings(cfg, instantiate(cfg.task))
    assert (cfg.input, cfg.output, cfg.ckpt) == ("5", "2024", "1")
    assert (cfg.data.root, cfg.data.split_file) == ("2024", "3")


def test_the_device_of_scene_maps_is_named_once():
    assert len(lines_of("scene", "device=3")) == 1
