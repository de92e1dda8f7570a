"""The faster pass: its result is that of the network, always with its present weights."""

import copy
import gc
import pickle
import threading
import weakref
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import CatMetric, MeanMetric

from tests.helpers.nets import images, randomised
from vbp_lightning import RoadClassifier
from vbp_lightning.attribution import Occlusion, UnsupportedNetworkError, VisualBackProp
from vbp_lightning.graph import running, sharing
from vbp_lightning.graph.network_graph import graph_of


def chain():
    return randomised(
        nn.Sequential(
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Sequential(
                nn.Conv2d(4, 6, 3, padding=1), nn.Dropout(), nn.BatchNorm2d(6, affine=False)
            ),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(6, 4, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 1),
        )
    )


def agree(method, inputs=None):
    """Asserts that output and raw mask agree with the model in float64 without fusing."""
    inputs = images(9) if inputs is None else inputs
    reference = VisualBackProp(copy.deepcopy(method.model).double(), method.upsampling, fuse=False)
    expected_output, expected = reference.attribute_with_logits(inputs.double(), normalize=False)
    output, mask = method.attribute_with_logits(inputs, normalize=False)
    torch.testing.assert_close(output.double(), expected_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        mask.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.max())
    )


@pytest.mark.parametrize("samples", [1, 2, 9])
@pytest.mark.parametrize("upsampling", ["deconv", "bilinear", "unpool"])
def test_same_result(samples, upsampling):
    net = chain()
    agree(VisualBackProp(net, upsampling), images(samples))
    (program,) = graph_of(net, images()).programs.values()
    targets = [str(node.target) for node in program._code.nodes]
    assert sum("convolution" in each for each in targets) == 3
    # Of four batch norms the one before the first convolution and the second of two remain.
    assert sum("batch_norm" in each for each in targets) == 2


def test_chunks_make_no_difference(monkeypatch):
    whole = VisualBackProp(chain(), "unpool").attribute(images(9))
    monkeypatch.setattr(running, "_CACHED_BYTES", 4 * 4 * 30 * 30 * 4)
    # The largest map of an image has 4 × 30 × 30 values of 4 bytes.
    method = VisualBackProp(chain(), "unpool")
    torch.testing.assert_close(method.attribute(images(9)), whole, rtol=1e-5, atol=1e-5)
    (program,) = graph_of(method.model, images()).programs.values()
    assert program._portion == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net[2][0].weight.data.mul_(1.5),
        lambda net: net[2][0].weight.detach().numpy().__imul__(1.5),
        lambda net: setattr(net[2][0], "weight", nn.Parameter(torch.rand(4, 3, 3, 3))),
        lambda net: setattr(net[2][0].weight, "data", torch.rand(4, 3, 3, 3)),
        lambda net: net[2][1].running_mean.data.add_(0.1),
        lambda net: net[2][1].running_var.copy_(torch.rand(4) + 0.5),
        lambda net: net[2][1].bias.data.add_(0.1),
        lambda net: setattr(net[2][1], "eps", 0.5),
        lambda net: net[4][0].bias.data.add_(0.3),
        lambda net: setattr(net[4][0], "bias", None),
        lambda net: net[4].__setitem__(0, randomised(nn.Conv2d(4, 6, 5, padding=2), seed=5)),
        lambda net: net.__setitem__(3, nn.MaxPool2d(3)),
        lambda net: net[8].weight.data.neg_(),
    ],
)
def test_changed_weights_are_noticed(change):
    net = chain()
    method = VisualBackProp(net, "deconv")
    before = method.attribute(images(3), normalize=False)
    with torch.no_grad():
        change(net)
    agree(method)
    assert not torch.equal(method.attribute(images(3), normalize=False), before)


def test_training_step_between_two_masks_is_noticed():
    net = chain()
    method = VisualBackProp(net, "deconv")
    method.attribute(images(3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    net.train()
    net(images(9)).square().mean().backward()
    optimizer.step()
    agree(method)


def test_hooks_of_the_user_are_part_of_the_network():
    net = chain()
    net[2][0].register_forward_hook(lambda module, args, output: 2 * output)
    net[5].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    handle = net[4].register_forward_hook(lambda module, args, output: 0.5 * output)
    method = VisualBackProp(net, "deconv")
    agree(method)
    handle.remove()
    agree(method)


def test_other_types_and_autocast_are_not_fused():
    net = chain()
    VisualBackProp(net, "deconv").attribute(images())
    with torch.autocast("cpu", torch.bfloat16):
        VisualBackProp(net, "deconv").attribute(images())
    graph = graph_of(net, images())
    assert [program._fast for program in graph.programs.values()] == [True, False]
    assert graph_of(net.double(), images().double()) is not graph


def test_nested_containers_are_followed():
    class Wrapper(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            return self.network(inputs)

    agree(VisualBackProp(Wrapper(Wrapper(chain()))))


def test_parametrised_and_reshaping_convolutions_run_unchanged():
    net = chain()
    nn.utils.parametrizations.weight_norm(net[2][0])
    net[4][0] = randomised(nn.Conv2d(4, 6, 3, padding="same"), seed=2)
    reference = VisualBackProp(net, "deconv", fuse=False).attribute(images(3))
    torch.testing.assert_close(VisualBackProp(net, "deconv").attribute(images(3)), reference)


def test_sequential_sliced_by_its_owner_is_followed():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = chain()

        def forward(self, inputs):
            for module in self.features:
                inputs = module(inputs)
            return inputs

    agree(VisualBackProp(Slices(), "deconv"))


def test_in_place_relu_at_the_start_of_a_run_changes_the_shortcut_too():
    """As in pre-activation blocks with an in-place ReLU."""

    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))
            self.relu = nn.ReLU()

        def forward(self, inputs):
            features = self.conv(inputs)
            return self.relu(self.body(features) + features).mean((2, 3))

    agree(VisualBackProp(randomised(PreActivation()), "deconv"))


def test_settings_and_replaced_parts_of_a_network_are_noticed():
    class Preparation(nn.Module):
        scale = 0.25

        def forward(self, inputs):
            return (inputs - 0.5) / self.scale

    net = nn.Sequential(Preparation(), chain())
    method = VisualBackProp(net, "deconv")
    agree(method)
    net[0].scale = 0.5
    agree(method)
    net.load_state_dict({k: 2 * v for k, v in net.state_dict().items()}, assign=True)
    agree(method)
    net[1][12] = nn.Linear(4, 3)
    agree(method)
    assert method.attribute_with_logits(images())[0].shape == (2, 3)


class Contained(nn.Module):
    """A network with modules, tensors and numbers in plain containers."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.listed, self.nested = [nn.Conv2d(4, 4, 3)], {"deep": [(nn.Conv2d(4, 4, 1),)]}
        self.numbers, self.tensors = [1.0], (torch.ones(4, 1, 1),)
        self.array = np.ones(1, np.float32)
        self.shift = partial(torch.add, other=0.5)

    def forward(self, inputs):
        features = self.first(inputs).relu() * self.numbers[0] - self.tensors[0]
        features = self.shift(self.listed[0](features)).relu() - torch.from_numpy(self.array)
        return self.head(self.nested["deep"][0][0](features).relu().mean((2, 3)))


CHANGES = {
    "module in a list": lambda net: net.listed.__setitem__(0, nn.Conv2d(4, 4, 3)),
    "module in nested containers": lambda net: net.nested["deep"].__setitem__(
        0, (nn.Conv2d(4, 4, 1),)
    ),
    "parameter of a module in a list": lambda net: setattr(
        net.listed[0], "weight", nn.Parameter(torch.rand(4, 4, 3, 3))
    ),
    "setting of a module in a list": lambda net: setattr(net.listed[0], "dilation", (2, 2)),
    "number in a list": lambda net: net.numbers.__setitem__(0, 3.0),
    "tensor in a tuple": lambda net: setattr(net, "tensors", (torch.full((4, 1, 1), -2.0),)),
    "array": lambda net: setattr(net, "array", np.full(1, -2, np.float32)),
    "bound argument": lambda net: setattr(net, "shift", partial(torch.add, other=2.0)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_in_plain_containers_are_noticed(change):
    torch.manual_seed(0)
    net = Contained().eval()
    method, before = (
        VisualBackProp(net, "deconv"),
        VisualBackProp(net, "deconv").attribute(images(), normalize=False),
    )
    change(net)
    after = method.attribute(images(), normalize=False)
    assert not torch.equal(after, before)
    fresh = VisualBackProp(copy.deepcopy(net), "deconv").attribute(images(), normalize=False)
    assert torch.equal(after, fresh)


def test_results_that_are_not_used_and_counters_do_no_harm():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, inputs):
            self.calls.add_(1)
            self.unused(inputs)
            self.norm(self.unused(inputs))
            return self.head(self.first(inputs).relu().mean((2, 3)))

    net = randomised(Unused())
    agree(VisualBackProp(net, "deconv"))
    before = net.calls.clone()
    Occlusion(net, window=16, stride=16).attribute(images(), target=0)
    assert net.calls == before


@pytest.fixture
def exports(monkeypatch):
    """Whether the size was free in each export in float32; no earlier export is known."""
    made = []
    original = sharing.exported

    def counted(model, example, name, free_size):
        if example.dtype is torch.float32:
            made.append(free_size)
        return original(model, example, name, free_size)

    monkeypatch.setattr(sharing, "exported", counted)
    monkeypatch.setattr(sharing, "_TEMPLATES", OrderedDict())
    return made


def test_a_second_size_is_exported_for_all_sizes(exports):
    method = VisualBackProp(chain(), "deconv")
    for size in (32, 40, 48, 52, 32):
        agree(method, images(1, size=size))
    assert exports == [False, True]


def test_networks_of_the_same_structure_share_an_export(exports):
    for number in range(3):
        network = chain()
        torch.nn.init.normal_(network[2][0].weight, generator=torch.Generator().manual_seed(number))
        agree(VisualBackProp(network, "deconv"))
    assert exports == [False]
    gone = weakref.ref(network[2][0].weight)
    del network
    gc.collect()
    assert gone() is None
    network = chain()
    network[3].stride = 1
    agree(VisualBackProp(network, "deconv"))
    assert exports == [False, False]


def test_metrics_that_count_cause_no_new_export(exports):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.values, self.mean = chain(), CatMetric(), MeanMetric()

        def forward(self, images):
            return self.network(images)

    counting = Counting().eval()
    method = VisualBackProp(counting, "deconv")
    for value in range(3):
        agree(method)
        counting.values.update(torch.ones(4))
        counting.mean.update(torch.tensor(float(value)))
        counting.mean.compute()
    assert exports == [False]


def test_classifiers_share_an_export_whatever_they_were_trained_on(exports):
    for splits in ("a", "b"):
        model = RoadClassifier(data={"root": splits}, splits={splits: "train"}).eval()
        model.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        VisualBackProp(model, "deconv").attribute(images(2, size=96))
    assert exports == [False]


def test_an_export_is_not_shared_where_forward_depends_on_something_else(exports):
    shift = [0.0]

    class Shifted(nn.Module):
        def forward(self, images):
            return torch.relu(torch.relu(images) - shift[0]).mean((2, 3))

    for shift[0], expected in ((1.0, [6.0, 0.0]), (0.0, [9.0, 1.0])):
        image = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)
        mask = VisualBackProp(Shifted(), "deconv").attribute(image, normalize=False)
        assert mask.flatten().tolist() == expected
    assert exports == [False, False]


def test_copies_and_pickles_of_a_method_hold_no_graph():
    method = VisualBackProp(chain(), "deconv")
    mask = method.attribute(images())
    for copied in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert vars(copied).keys() == vars(method).keys()
        assert copied.model is not method.model
        assert torch.equal(copied.attribute(images()), mask)


def test_a_network_is_forgotten_when_it_is_not_used_any_more():
    net = chain()
    VisualBackProp(net, "deconv").attribute(images())
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_the_first_export_while_other_threads_run_the_network():
    net, other = chain(), chain()
    expected = VisualBackProp(chain(), "deconv").attribute(images())
    stop, failures = threading.Event(), []

    def run(model):
        while not stop.is_set():
            try:
                with torch.no_grad():
                    model(images())
            except Exception as error:
                failures.append(error)

    def explain():
        try:
            masks.append(VisualBackProp(net, "deconv").attribute(images()))
        except Exception as error:
            failures.append(error)

    masks = []
    runners = [threading.Thread(target=run, args=(model,)) for model in (net, other)]
    explainers = [threading.Thread(target=explain) for _ in range(3)]
    for thread in (*runners, *explainers):
        thread.start()
    for thread in explainers:
        thread.join()
    stop.set()
    for thread in runners:
        thread.join()
    assert not failures
    for mask in masks:
        torch.testing.assert_close(mask, expected)


def test_preparation_in_place_never_changes_the_callers_images():
    class Preparation(nn.Module):
        def forward(self, inputs):
            return inputs.sub_(0.5).div_(0.25)

    method = VisualBackProp(nn.Sequential(Preparation(), chain()), "deconv")
    inputs = images()
    first = method.attribute(inputs)
    assert torch.equal(method.attribute(inputs), first)
    assert torch.equal(inputs, images())


def test_wrapped_networks_are_those_inside():
    expected = VisualBackProp(chain(), "deconv").attribute(images())
    for wrap in (nn.DataParallel, partial(torch.compile, backend="eager")):
        torch.testing.assert_close(
            VisualBackProp(wrap(chain()), "deconv").attribute(images()), expected
        )


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # which is refused
def test_what_does_not_run_as_exported_is_refused_by_name():
    class LowPrecision(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = chain()

        def forward(self, images):
            with torch.autocast("cpu", torch.bfloat16):
                return self.network(images).float()

    for network, words in (
        (LowPrecision(), "LowPrecision: its exported operations"),
        (nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()), "no shape yet"),
        (torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), "torch.export"),
    ):
        with pytest.raises(UnsupportedNetworkError, match=words):
            VisualBackProp(network, "deconv").attribute(images())
