"""Dropout that is drawn faster has the same distribution and gradients; attention is what it was."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unfreeze.backbones.timm_ import assemble
from unfreeze.backbones.timm_loading import create_timm
from unfreeze.contracts import State
from unfreeze.engine import kernels
from unfreeze.engine.kernels import LEVELS, ProcessorKernels, drop
from unfreeze.engine.suffix import Suffix


def attention(dtype=torch.float32, **given):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 8, 4).to(dtype).requires_grad_() for _ in range(3))
    with ProcessorKernels():
        return functional.scaled_dot_product_attention(q, k, v, **given), (q, k, v)


@pytest.fixture
def keeping_all(monkeypatch):
    monkeypatch.setattr(kernels, "_kept", lambda shape, p: torch.ones(shape, dtype=torch.uint8))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_element_goes_with_its_probability_and_the_rest_is_scaled(p):
    x = torch.ones(1000, 1000)
    out = drop(x, p)
    share = float((out == 0).double().mean())
    # Six standard deviations of a million draws.
    assert abs(share - p) < 6 * (p * (1 - p) / 1e6) ** 0.5 + 1 / LEVELS
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-3)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.02)


def test_elements_go_by_themselves():
    gone = drop(torch.ones(2000, 512), 0.3) == 0
    along, across = (
        float(np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1])
        for one, other in ((gone[:, 1:], gone[:, :-1]), (gone[1:], gone[:-1]))
    )
    assert abs(along) < 0.01
    assert abs(across) < 0.01


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(64, 64, requires_grad=True)
    out = drop(x, 0.25)
    out.sum().backward()
    assert torch.equal(x.grad == 0, out == 0)
    assert x.grad[x.grad != 0].unique().tolist() == pytest.approx([4 / 3], rel=1e-4)


def test_the_seed_decides():
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append([drop(torch.ones(40), 0.5), drop(torch.ones(40), 0.5)])
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1])
    assert not torch.equal(answers[0][0], answers[2][0])
    assert not torch.equal(answers[0][0], answers[0][1])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5)])
def test_any_shape_is_drawn(shape):
    torch.manual_seed(0)
    assert drop(torch.ones(shape), 0.5).shape == shape


@pytest.mark.parametrize(
    "module", [nn.Dropout(0.5), nn.Dropout(0.0), nn.Dropout(1.0), nn.Dropout(0.5, inplace=True)]
)
def test_modules_are_quick_and_what_draws_nothing_is_as_it_was(module, monkeypatch):
    drawn = []
    monkeypatch.setattr(kernels, "drop", lambda x, p: drawn.append(p) or x)
    with ProcessorKernels():
        out = module.train()(torch.ones(100))
        assert torch.equal(module.eval()(torch.ones(100)), torch.ones(100))
    assert drawn == ([0.5] if module.p == 0.5 and not module.inplace else [])
    if module.p in (0.0, 1.0):
        assert out.unique().tolist() == [1.0 - module.p]


@pytest.mark.parametrize("mask", [None, "bool", "added"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_that_keeps_everything_is_pytorch_s(keeping_all, mask, scale):
    given = {"scale": scale}
    seen = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    seen[1, :, :, 5:] = False
    if mask == "bool":
        given["attn_mask"] = seen
    elif mask == "added":
        given["attn_mask"] = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    ours, inputs = attention(dropout_p=0.1, **given)
    theirs = functional.scaled_dot_product_attention(*inputs, **given)
    kept = LEVELS / (LEVELS - round(0.1 * LEVELS))
    assert torch.allclose(ours, theirs * kept, atol=1e-6)
    weight = torch.randn(ours.shape)
    mine = torch.autograd.grad((ours * weight).sum(), inputs)
    wanted = torch.autograd.grad((theirs * kept * weight).sum(), inputs)
    for one, other in zip(mine, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", ["bool", "added"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_sees_nothing_attends_to_nothing_and_leaves_the_rest_alone(keeping_all, kind, dtype):
    # As in a sliding window: the last query is padding, too far from every key that is not.
    seen = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    seen[1, :, :, 5:] = False
    seen[1, :, 7] = False
    mask = seen if kind == "bool" else torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    ours, inputs = attention(dtype, attn_mask=mask, dropout_p=0.1)
    exact = [one.detach().float().requires_grad_() for one in inputs]
    theirs = functional.scaled_dot_product_attention(*exact, attn_mask=mask) / 0.9
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    assert torch.equal(ours[1, :, 7], torch.zeros_like(ours[1, :, 7]))
    assert torch.allclose(ours.float(), theirs, atol=tolerance)
    mine = torch.autograd.grad(ours.float().sum(), inputs)
    wanted = torch.autograd.grad(theirs.sum(), exact)
    for one, other in zip(mine, wanted, strict=True):
        assert torch.allclose(one.float(), other, atol=4 * tolerance)


def test_attention_in_a_lower_precision_comes_out_in_it(keeping_all):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 8, 4) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16), ProcessorKernels():
        ours = functional.scaled_dot_product_attention(q, k, v, dropout_p=0.1)
    assert ours.dtype == torch.bfloat16
    theirs = functional.scaled_dot_product_attention(q, k, v) / 0.9
    assert float((ours.float() - theirs).abs().max()) < 0.03


@pytest.mark.parametrize("given", [{}, {"dropout_p": 0.1, "is_causal": True}, {"dropout_p": 0.0}])
def test_attention_that_has_a_kernel_is_left_to_it(given, monkeypatch):
    monkeypatch.setattr(kernels, "drop", lambda *_: pytest.fail("drawn here"))
    monkeypatch.setattr(torch.Tensor, "softmax", lambda *_, **__: pytest.fail("computed here"))
    out, _ = attention(**given)
    assert out.shape == (2, 3, 8, 4)


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_a_bias_that_is_learnt_gets_its_gradient(p):
    bias = torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    out, _ = attention(torch.bfloat16, attn_mask=bias, dropout_p=p)
    out.float().square().sum().backward()
    assert float(bias.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("tokens", "here"), [(8, True), (kernels.FEW_TOKENS, True), (kernels.FEW_TOKENS + 1, False)]
)
def test_short_attention_in_bf16_is_plain_and_the_same(tokens, here, monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, 4, dtype=torch.bfloat16) for _ in range(3))
    seen = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda x, **given: seen.append(x.shape) or softmax(x, **given)
    )
    with ProcessorKernels():
        ours = functional.scaled_dot_product_attention(q, k, v)
    assert bool(seen) == here
    theirs = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert float((ours.float() - theirs).abs().max()) < 0.03


def test_attention_is_the_same_on_average():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 6, 4) for _ in range(3))
    many = [one.expand(20_000, -1, -1, -1) for one in (q, k, v)]
    with ProcessorKernels():
        mean = functional.scaled_dot_product_attention(*many, dropout_p=0.3).mean(dim=0)
    assert torch.allclose(mean, functional.scaled_dot_product_attention(q, k, v)[0], atol=0.03)


class Strides(TorchFunctionMode):
    """Notes the stride of every convolution that reaches PyTorch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.conv2d:
            self.seen.append(args[3] if len(args) > 3 else 1)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stride", [2, (2, 1)])
def test_a_stride_over_single_pixels_of_few_channels_is_taken_before_the_convolution(stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 1, stride=stride)
    pixels = torch.randn(2, 3, 7, 8)
    found = []
    # oneDNN's own is safe with pixels that lie contiguous.
    for layout, kernels_here in (
        (torch.contiguous_format, nullcontext()),
        (torch.channels_last, ProcessorKernels()),
    ):
        h = pixels.clone(memory_format=layout).requires_grad_()
        with Strides() as strides, kernels_here:
            out = conv(h)
        out.square().sum().backward()
        found.append((out.detach(), h.grad, conv.weight.grad, conv.bias.grad))
        conv.zero_grad()
    assert strides.seen == [1]
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"kernel_size": 3}, {"padding": 1}, {"in_channels": 16}, {"groups": 4}, {"padding": 1, "stride": 4}],
)
def test_other_convolutions_keep_their_stride(settings):
    conv = nn.Conv2d(**({"in_channels": 8, "out_channels": 8, "kernel_size": 1, "stride": 2} | settings))
    with torch.no_grad(), Strides() as strides, ProcessorKernels():
        conv(torch.randn(1, conv.in_channels, 8, 8))
    assert strides.seen == [conv.stride]


def test_repvgg_trains_without_a_stride_over_single_pixels_of_its_picture(t):
    module = create_timm("repvgg_a0", {})
    backbone = assemble(module, "repvgg_a0", architecture="repvgg_a0", arguments={}, image_size=32)
    conv = next(
        part for part in module.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)
    )
    assert (conv.in_channels, conv.stride) == (3, (2, 2))
    with Strides() as strides:
        Suffix(backbone, 0, t.CPU, "fp32", steps=1)(State(torch.zeros((1, 32, 32, 3), dtype=torch.uint8)))
    assert strides.seen.count(1) == 1


@pytest.mark.parametrize("kind", ["vit", "text"])
def test_the_trained_part_draws_so_when_it_trains_and_never_when_it_is_judged(t, kind, monkeypatch):
    drawn = []
    monkeypatch.setattr(kernels, "drop", lambda x, p: drawn.append(p) or x)
    backbone = t.toy(kind)
    suffix = Suffix(backbone, 0, t.CPU, "fp32", steps=1)
    state = t.rows_of(kind, 4, 0).inputs.batch(np.arange(4), None)
    backbone.module.train()
    suffix(state)
    assert set(drawn) == {0.1}
    drawn.clear()
    with torch.no_grad():
        suffix(state)
    backbone.module.eval()
    suffix(state)
    assert not drawn
