"""The laws of a backbone, over the whole table, with tiny networks of random weights."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch

from unfreeze.backbones import randomise, rebuild, stage_parameters
from unfreeze.contracts import Backbone, State
from unfreeze.engine.trainable import is_graft, stage_of_parameters
from unfreeze.errors import RequestError
from unfreeze.grafts import attach, pack, refuse_broken, restore, settle, unpack
from unfreeze.grafts.rowwise import Rowwise, Updates
from unfreeze.grafts.targets import resolve_targets
from unfreeze.plan import Adapters, Graft, Lora
from unfreeze.runtime.preprocess import TextPreprocess

TOLERANCE = 2e-5


@dataclass(frozen=True, eq=False)
class Case:
    """A tiny network. ``shared``: tables that stage 0 owns and later stages read."""

    name: str
    family: str
    stages: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int = 64
    shared: bool = False


TINY_TOKENS = {"depth": 3, "embed_dim": 48, "num_heads": 3}
IMAGES = (
    Case("vit_tiny_patch16_224", "vit", 5, {**TINY_TOKENS, "img_size": [32, 32]}, 32),
    Case("vit_small_patch14_dinov2", "vit", 5, {**TINY_TOKENS, "img_size": [28, 28]}, 28),
    Case("vit_small_patch14_reg4_dinov2", "vit", 5, {**TINY_TOKENS, "img_size": [28, 28]}, 28),
    Case("vit_base_patch16_siglip_224", "vit", 5, {**TINY_TOKENS, "img_size": [32, 32]}, 32),
    Case("deit3_small_patch16_224", "vit", 5, {**TINY_TOKENS, "img_size": [32, 32]}, 32),
    Case("deit_tiny_distilled_patch16_224", "vit", 5, {**TINY_TOKENS, "img_size": [32, 32]}, 32),
    Case("eva02_tiny_patch14_224", "vit", 5, {**TINY_TOKENS, "img_size": [28, 28]}, 28),
    Case("vit_small_patch16_dinov3", "vit", 5, {**TINY_TOKENS, "img_size": [32, 32]}, 32),
    Case(
        "vit_small_patch16_rope_mixed_224", "vit", 5, {**TINY_TOKENS, "img_size": [32, 32]}, 32, shared=True
    ),
    Case("beit_base_patch16_224", "vit", 5, {**TINY_TOKENS, "img_size": [32, 32]}, 32),
    Case(
        "beit_base_patch16_224",
        "vit",
        5,
        {**TINY_TOKENS, "img_size": [32, 32], "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
        32,
        shared=True,
    ),
    Case("test_resnet", "resnet", 6),
    Case("test_efficientnet", "efficientnet", 7),
    Case("mobilenetv3_small_050", "efficientnet", 8),
    Case("mobilenetv2_035", "efficientnet", 9),
    Case("tf_efficientnet_lite0", "efficientnet", 9),
    Case("test_convnext", "convnext", 6),
    Case("convnextv2_atto", "convnext", 6, {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
    Case(
        "swin_tiny_patch4_window7_224",
        "swin",
        6,
        {
            "depths": [1, 1, 2, 1],
            "embed_dim": 24,
            "num_heads": [1, 2, 3, 4],
            "img_size": [64, 64],
            "window_size": 4,
        },
    ),
    Case(
        "swinv2_tiny_window8_256",
        "swin",
        6,
        {
            "depths": [1, 1, 2, 1],
            "embed_dim": 24,
            "num_heads": [1, 2, 3, 4],
            "img_size": [64, 64],
            "window_size": 4,
        },
    ),
    Case("ghostnet_050", "opaque", 1),
)

TINY_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
}
TINY_DECODER = {**TINY_BERT, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0}
DEBERTA = {
    **TINY_BERT,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
TEXTS = (
    Case("bert", "encoder", 5, TINY_BERT),
    Case("roberta", "encoder", 5, {**TINY_BERT, "max_position_embeddings": 40}),
    Case("xlm-roberta", "encoder", 5, {**TINY_BERT, "max_position_embeddings": 40}),
    Case("electra", "encoder", 5, {**TINY_BERT, "embedding_size": 16}),
    Case(
        "distilbert",
        "encoder",
        5,
        {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, "vocab_size": 60},
    ),
    Case("mpnet", "encoder", 5, {**TINY_BERT, "max_position_embeddings": 40}, shared=True),
    Case("deberta-v2", "encoder", 5, DEBERTA, shared=True),
    Case("deberta-v2", "encoder", 5, {**DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu"}, shared=True),
    Case("modernbert", "encoder", 5, {**TINY_BERT, "local_attention": 4, "pad_token_id": 0}),
    Case("llama", "decoder", 5, TINY_DECODER),
    Case("qwen3", "decoder", 5, TINY_DECODER),
    Case(
        "qwen3",
        "decoder",
        5,
        {**TINY_DECODER, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    Case("gemma3_text", "decoder", 5, {**TINY_DECODER, "sliding_window": 3}),
    Case(
        "gpt2", "decoder", 5, {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 40, "vocab_size": 60}
    ),
    Case("albert", "opaque", 1, {**TINY_BERT, "embedding_size": 16}),
    Case(
        "t5",
        "opaque",
        1,
        {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 48, "vocab_size": 60},
    ),
)
CASES = (*IMAGES, *TEXTS)


def case_name(case: Case) -> str:
    twins = [other for other in CASES if other.name == case.name]
    return case.name if len(twins) == 1 else f"{case.name}-{twins.index(case)}"


def scramble(tensors: Any, seed: int = 0) -> None:
    """Random values, so that no table of zeros, small layer scale or fresh statistic hides a wrong cut."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            # Vectors are scales, shifts and variances: those stay positive.
            tensor.data.copy_((tensor + 0.2 * noise).abs() if tensor.ndim <= 1 else tensor + 0.1 * noise)


def build_image(case: Case) -> Backbone:
    from unfreeze.backbones.timm_ import assemble
    from unfreeze.backbones.timm_loading import create_timm

    torch.manual_seed(0)
    module = create_timm(case.name, case.arguments)
    scramble(module.state_dict().values())
    return assemble(module, case.name, architecture=case.name, arguments=case.arguments, image_size=case.size)


def build_text(case: Case) -> Backbone:
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    from unfreeze.backbones import hf, hf_loading

    torch.manual_seed(0)
    with hf_loading.quiet_transformers():
        config = AutoConfig.for_model(case.name, **case.arguments)
        factory = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
        model_class = type(factory.from_config(config))
        module = model_class(config, **hf_loading.pooler_argument(model_class, config, native=False))
    scramble(module.state_dict().values())
    causal = hf.is_causal(module, config)
    return hf_loading.assemble(
        module,
        case.name,
        config=config,
        pooling="last" if causal else "mean",
        causal=causal,
        preprocess=TextPreprocess(max_length=32, pad_id=1, tokenizer_hash="none"),
        tokenizer=b"{}",
    )


@cache
def build(case: Case) -> Backbone:
    return build_text(case) if case in TEXTS else build_image(case)


def batch(case: Case) -> State:
    """Three samples; the texts have different lengths."""
    generator = torch.Generator().manual_seed(1)
    if case in IMAGES:
        shape = (3, case.size, case.size, 3)
        return State(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
    ids = torch.randint(3, 60, (3, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([[9], [5], [2]])
    return State(torch.where(mask, ids, 1), mask)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))


def same(case: Case, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, but for a pool that multiplies one row for the whole batch.

    Whether torch 2.10 makes one product of that or many depends on whether the weight learns, and they round apart.
    """
    return torch.equal(a, b) or ("siglip" in case.name and gap(a, b) <= 1e-6)


def in_double(backbone: Backbone) -> None:
    backbone.module.double()
    for part in backbone.module.modules():
        if hasattr(part, "t_x"):
            # The grid of mixed rotary positions: timm 1.0.26 multiplies it with frequencies that it makes float.
            part.float()


def real(state: State) -> torch.Tensor:
    """What of a state counts: padded places of a text may hold anything."""
    if state.mask is None or state.h.ndim < 3:
        return state.h
    return state.h * state.mask.unsqueeze(-1)


@contextmanager
def scrambled(backbone: Backbone, stages: range) -> Iterator[None]:
    """The backbone with other weights in some stages."""
    own = backbone.module.state_dict()
    names = [name for index in stages for name in backbone.stages[index].tensors]
    kept = {name: own[name].clone() for name in names}
    scramble([own[name] for name in names], seed=2)
    try:
        yield
    finally:
        for name, value in kept.items():
            own[name].copy_(value)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small wait for threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=CASES, ids=case_name)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


@torch.no_grad()
def test_it_meets_the_protocol_and_is_cut_where_its_family_says(case: Case) -> None:
    backbone = build(case)
    assert isinstance(backbone, Backbone)
    assert (backbone.family, len(backbone.stages)) == (case.family, case.stages)
    assert bool(backbone.notes) == (case.family == "opaque")
    assert not backbone.module.training
    assert backbone.modality == ("text" if case in TEXTS else "image")


def test_every_tensor_belongs_to_exactly_one_stage(case: Case) -> None:
    backbone = build(case)
    owned = [name for stage in backbone.stages for name in stage.tensors]
    assert sorted(owned) == sorted(backbone.module.state_dict())
    counted = sum(len(stage_parameters(backbone, index)) for index in range(len(backbone.stages)))
    assert counted == len(dict(backbone.module.named_parameters()))


@torch.no_grad()
def test_running_in_two_parts_gives_what_running_at_once_gives(case: Case) -> None:
    backbone, x = build(case), batch(case)
    whole = backbone.run(x).h
    assert whole.shape == (3, backbone.dim)
    assert whole.dtype == torch.float32
    assert float(whole.std()) > 1e-3
    for k in range(len(backbone.stages) + 1):
        assert gap(backbone.run(backbone.run(x, 0, k), k).h, whole) <= TOLERANCE, k


@torch.no_grad()
def test_stage_by_stage_passes_the_same_states_as_a_long_run(case: Case) -> None:
    backbone, x = build(case), batch(case)
    state = x
    for k in range(len(backbone.stages)):
        state = backbone.run(state, k, k + 1)
        assert gap(real(state), real(backbone.run(x, 0, k + 1))) <= TOLERANCE, k


@torch.no_grad()
def test_the_full_run_is_the_librarys_own_forward(case: Case) -> None:
    backbone, x = build(case), batch(case)
    if case in IMAGES:
        preprocess: Any = backbone.preprocess
        pixels = (x.h.permute(0, 3, 1, 2).double() / 255).float()
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (preprocess.mean, preprocess.std))
        assert gap(backbone.run(x).h, backbone.module((pixels - mean) / std)) <= TOLERANCE
        return
    assert x.mask is not None
    for row, length in enumerate(x.mask.sum(dim=1).tolist()):
        hidden = backbone.module(input_ids=x.h[row : row + 1, :length]).last_hidden_state[0]
        wanted = hidden[-1] if case.family == "decoder" else hidden.mean(dim=0)
        assert gap(backbone.run(x).h[row], wanted) <= 1e-4, "padding changed the result"


@torch.no_grad()
def test_the_weights_of_later_stages_do_not_reach_earlier_boundaries(case: Case) -> None:
    backbone, x = build(case), batch(case)
    depth = len(backbone.stages)
    for k in range(1, depth):
        before = real(backbone.run(x, 0, k))
        with scrambled(backbone, range(k, depth)):
            assert gap(real(backbone.run(x, 0, k)), before) == 0.0, k
            assert gap(backbone.run(x).h, backbone.run(backbone.run(x, 0, k), k).h) <= TOLERANCE


@torch.no_grad()
def test_the_weights_of_earlier_stages_do_not_reach_what_is_resumed(case: Case) -> None:
    backbone, x = build(case), batch(case)
    first = 1 if case.shared else 0
    for k in range(1, len(backbone.stages)):
        middle = backbone.run(x, 0, k)
        after = backbone.run(middle, k).h
        with scrambled(backbone, range(first, k)):
            assert gap(backbone.run(middle, k).h, after) == 0.0, k


@torch.no_grad()
def test_summaries_are_one_vector_a_sample_and_end_with_the_pooled_feature(case: Case) -> None:
    backbone, x = build(case), batch(case)
    depth = len(backbone.stages)
    for boundary in range(1, depth + 1):
        state = backbone.run(x, 0, boundary)
        summary = backbone.summary(state, boundary)
        assert summary.shape[0] == 3
        assert summary.ndim == 2
        assert summary.dtype == torch.float32
        if boundary == depth:
            assert torch.equal(summary, backbone.run(x).h)
        elif state.mask is not None:
            assert gap(summary[2], state.h[2, :2].mean(dim=0)) <= TOLERANCE
        elif case.family == "vit":
            prefix: Any = backbone.module.num_prefix_tokens
            places = [state.h[:, prefix:].mean(dim=1)]
            if "siglip" not in case.name:
                places.insert(0, state.h[:, 0])
            assert gap(summary, torch.cat(places, dim=1)) <= TOLERANCE
        else:
            space = (1, 2) if case.family == "swin" else (2, 3)
            assert gap(summary, state.h.mean(dim=space)) <= TOLERANCE


@torch.no_grad()
def test_it_is_rebuilt_from_its_recipe_and_tensors(case: Case) -> None:
    backbone, x = build(case), batch(case)
    recipe = json.loads(json.dumps(dict(backbone.recipe)))
    tensors = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    again = rebuild(recipe, tensors, backbone.assets)
    assert torch.equal(again.run(x).h, backbone.run(x).h)
    assert again.weights_hash == backbone.weights_hash
    for name in ("name", "family", "dim", "preprocess", "stages", "notes", "modality"):
        assert getattr(again, name) == getattr(backbone, name), name


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("case", TEXTS, ids=case_name)
def test_what_is_known_of_the_padding_changes_nothing(case: Case, padded: bool) -> None:
    backbone, x = build(case), batch(case)
    if not padded:
        x = State(x.h.clamp(min=3), torch.ones_like(x.h, dtype=torch.bool))
    # The last of several stages pools, and may have nothing that learns.
    for start in range(max(1, len(backbone.stages) - 1)):
        with torch.no_grad():
            below = backbone.run(x, 0, start)
        found = []
        for full in (None, not padded, False):
            h = backbone.run(dataclasses.replace(below, full=full), start).h
            learnt = [value for value in backbone.module.parameters() if value.requires_grad]
            found.append((h.detach(), torch.autograd.grad(h.square().sum(), learnt, allow_unused=True)))
        (looked, wanted), (told, slopes), (careful, _) = found
        assert torch.equal(told, looked)
        assert all(one is two or torch.equal(one, two) for one, two in zip(slopes, wanted, strict=True)), (
            start
        )
        # To leave the mask out is another way to the same.
        assert gap(careful, looked) <= TOLERANCE


def test_a_copy_trains_alone_and_gradients_stop_at_the_stored_state(case: Case) -> None:
    backbone, x = build(case), batch(case)
    twin = copy.deepcopy(backbone)
    k = len(twin.stages) // 2
    with torch.no_grad():
        before = backbone.run(x).h
        middle = twin.run(x, 0, k)
    twin.run(middle, k).h.square().sum().backward()
    touched = {name for name, value in twin.module.named_parameters() if value.grad is not None}
    wanted = {name for index in range(k, len(twin.stages)) for name in stage_parameters(twin, index)}
    shared = set(stage_parameters(twin, 0)) if case.shared else set()
    assert touched
    assert touched <= wanted | shared
    for value in twin.module.parameters():
        value.data.add_(1.0)
    with torch.no_grad():
        assert torch.equal(backbone.run(x).h, before)


@torch.no_grad()
def test_bf16_autocast_gives_float32_features_near_the_exact_ones(case: Case) -> None:
    backbone, x = build(case), batch(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feature = backbone.run(x).h
    assert feature.dtype == torch.float32
    likeness = torch.cosine_similarity(feature.flatten(), backbone.run(x).h.flatten(), dim=0)
    assert float(likeness) > 0.9


@pytest.mark.parametrize("case", TEXTS, ids=case_name)
def test_a_step_in_bf16_has_finite_features_and_gradients_near_those_in_fp32(case: Case) -> None:
    from unfreeze.engine.devices import Precision
    from unfreeze.engine.suffix import Suffix

    backbone, x = copy.deepcopy(build(case)), batch(case)
    # Toys have no sense of which answer is right: what is compared is where both precisions lead.
    goal = torch.randn(3, backbone.dim, generator=torch.Generator().manual_seed(3))

    def step(precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
        backbone.module.zero_grad()
        feature = Suffix(backbone, 0, torch.device("cpu"), precision, steps=1)(x).float()
        (feature * goal).sum().backward()
        own = [value.grad for value in backbone.module.parameters() if value.grad is not None]
        return feature.detach(), torch.cat([one.flatten() for one in own])

    (feature, gradient), (wanted, exact) = step("bf16"), step("fp32")
    assert bool(feature.isfinite().all())
    assert bool(gradient.isfinite().all())
    for one, other in ((feature, wanted), (gradient, exact)):
        assert float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > 0.9


def test_what_openvino_keeps_of_a_sliding_window_leads_to_the_same_feature() -> None:
    from unfreeze.executors import build_executor

    case = next(case for case in TEXTS if case.name == "modernbert")
    backbone, x = build(case), batch(case)
    between = tuple(range(1, len(backbone.stages)))
    passed = build_executor("openvino-fp32", backbone, boundaries=(), keep=between, threads=1)(x)
    with torch.no_grad():
        whole = backbone.run(x).h
        for boundary, state in zip(between, passed.states, strict=True):
            assert gap(backbone.run(state, boundary).h, whole) <= 1e-4, boundary


@pytest.mark.parametrize("wanted", [(2, 1), (0, 99), (-1, 2)])
def test_a_way_that_does_not_exist_is_refused(wanted: tuple[int, int]) -> None:
    for case in (IMAGES[0], TEXTS[0]):
        with pytest.raises(ValueError, match="no way from boundary"):
            build(case).run(batch(case), *wanted)


class Runs(torch.nn.Module):
    """What an executor traces: a prefix and its summary."""

    def __init__(self, backbone: Backbone, stop: int) -> None:
        super().__init__()
        self.module = backbone.module
        self._run: Callable[[State], torch.Tensor] = lambda state: backbone.summary(
            backbone.run(state, 0, stop), stop
        )

    def forward(self, h: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self._run(State(h, mask))


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    "ignore:.*torch.jit.trace.*:FutureWarning",
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",
)
@pytest.mark.parametrize("case", [IMAGES[0], IMAGES[6], IMAGES[12], IMAGES[-3], TEXTS[0]], ids=case_name)
@torch.no_grad()
def test_a_traced_prefix_gives_the_same_summary_for_another_batch_size(case: Case) -> None:
    backbone, x = build(case), batch(case)
    stop = len(backbone.stages) - 1
    given = (x.h,) if x.mask is None else (x.h, x.mask)
    traced = torch.jit.trace(Runs(backbone, stop), given, check_trace=False)
    wanted = backbone.summary(backbone.run(x, 0, stop), stop)
    assert gap(traced(*(value[:2] for value in given)), wanted[:2]) <= TOLERANCE


@torch.no_grad()
def test_an_exported_run_gives_the_same_feature() -> None:
    case = IMAGES[0]
    backbone, x = build(case), batch(case)
    program = torch.export.export(Runs(backbone, len(backbone.stages)), (x.h,))
    assert gap(program.module()(x.h), backbone.run(x).h) <= TOLERANCE


def graft_of(backbone: Backbone, kind: str, *, rank: int = 2, blocks: int | None = None) -> Graft:
    if kind in ("adapters", "plain-adapters"):
        return Adapters(reduction=4, blocks=backbone.blocks, norm=kind != "plain-adapters")
    targets = resolve_targets(backbone, ("linear",), blocks).paths
    return Lora(rank=rank, alpha=6.0, dropout=0.0, targets=targets)


def can_graft(case: Case, kind: str) -> bool:
    return case.family in ("vit", "encoder", "decoder") or (kind == "lora" and case.family != "opaque")


GRAFTED = [(case, kind) for case in CASES for kind in ("lora", "adapters") if can_graft(case, kind)]
# Whether a bottleneck has a norm does not depend on the network that it stands in.
GRAFTED += [
    (next(case for case in cases if can_graft(case, "adapters")), "plain-adapters")
    for cases in (IMAGES, TEXTS)
]


@pytest.fixture(params=GRAFTED, ids=lambda pair: f"{case_name(pair[0])}-{pair[1]}")
def grafted(request: pytest.FixtureRequest) -> tuple[Case, Graft, Backbone]:
    case, kind = request.param
    bare = copy.deepcopy(build(case))
    graft = graft_of(bare, kind)
    return case, graft, attach(bare, graft, seed=1)


def train_at_random(backbone: Backbone) -> None:
    """Weights that a graft might come to have."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in backbone.module.named_parameters():
        if is_graft(name):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def test_a_graft_changes_nothing_until_it_is_trained(grafted: tuple[Case, Graft, Backbone]) -> None:
    case, _, backbone = grafted
    with torch.no_grad():
        assert same(case, backbone.run(batch(case)).h, build(case).run(batch(case)).h)
    assert sum(is_graft(name) for name, _ in backbone.module.named_parameters()) > 0


def test_every_weight_of_a_trained_graft_gets_a_gradient_in_its_stage(
    grafted: tuple[Case, Graft, Backbone],
) -> None:
    case, _, backbone = grafted
    train_at_random(backbone)
    owner = stage_of_parameters(backbone)
    named = dict(backbone.module.named_parameters())
    assert named.keys() <= owner.keys()
    backbone.run(batch(case)).h.square().sum().backward()  # type: ignore[no-untyped-call]
    grafts = [name for name in named if is_graft(name)]
    for name in grafts:
        gradient = named[name].grad
        assert gradient is not None, name
        assert float(gradient.abs().max()) > 0, name
    # From the boundary of a block on, nothing below it is reached.
    last = max(owner[name] for name in grafts)
    for parameter in named.values():
        parameter.grad = None
    with torch.no_grad():
        below = backbone.run(batch(case), 0, last)
    backbone.run(below, last).h.square().sum().backward()  # type: ignore[no-untyped-call]
    assert {owner[name] for name in grafts if named[name].grad is not None} == {last}


@torch.no_grad()
def test_a_grafted_backbone_is_cut_as_the_bare_one(grafted: tuple[Case, Graft, Backbone]) -> None:
    case, _, backbone = grafted
    train_at_random(backbone)
    full = backbone.run(batch(case))
    assert gap(full.h, build(case).run(batch(case)).h) > 1e-3
    for boundary in range(1, len(backbone.stages)):
        assert gap(backbone.run(backbone.run(batch(case), 0, boundary), boundary).h, full.h) <= TOLERANCE


@torch.no_grad()
def test_a_packed_graft_settles_into_the_same_answers(grafted: tuple[Case, Graft, Backbone]) -> None:
    case, graft, backbone = grafted
    train_at_random(backbone)
    bare = copy.deepcopy(build(case))
    if isinstance(graft, Lora) and case in IMAGES:
        # Deep networks of random weights blow rounding errors up a hundredfold.
        in_double(backbone)
        in_double(bare)
    wanted, files = backbone.run(batch(case)).h, pack(backbone, graft, base="somewhere")
    restored = restore(bare, files)
    assert gap(restored.run(batch(case)).h, wanted) <= TOLERANCE
    settled = settle(backbone, graft)
    assert same(case, settled.run(batch(case)).h, restored.run(batch(case)).h)
    names = list(settled.module.state_dict())
    # Every tensor belongs to exactly one stage again, under the library's own name or the adapter's.
    assert sorted(names) == sorted(name for stage in settled.stages for name in stage.tensors)
    if isinstance(graft, Lora):
        assert names == list(build(case).module.state_dict())
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "somewhere"


@torch.no_grad()
def test_files_of_adapters_that_say_nothing_of_a_norm_have_one() -> None:
    case = next(case for case in IMAGES if can_graft(case, "adapters"))
    bare = copy.deepcopy(build(case))
    graft = graft_of(bare, "adapters")
    backbone = attach(copy.deepcopy(bare), graft, seed=1)
    train_at_random(backbone)
    files = pack(backbone, graft, base="somewhere")
    config = json.loads(files["adapter_config.json"])
    assert config.pop("norm") is True
    restored = restore(bare, files | {"adapter_config.json": json.dumps(config).encode()})
    assert gap(restored.run(batch(case)).h, backbone.run(batch(case)).h) <= TOLERANCE


# They project a table of positions once for all rows.
SHARED_BY_ROWS = ("deberta-v2", "swinv2_tiny_window8_256")


@torch.no_grad()
def test_rows_with_different_grafts_in_one_batch_give_what_each_gives_by_itself(
    grafted: tuple[Case, Graft, Backbone],
) -> None:
    case, graft, first = grafted
    bare = copy.deepcopy(build(case))
    other = graft_of(bare, "lora", rank=3, blocks=1)
    second = attach(copy.deepcopy(bare), other, seed=2)
    train_at_random(first)
    train_at_random(second)
    for backbone in (bare, first, second):
        in_double(backbone)
    files = [pack(first, graft, base=""), pack(second, other, base="")]
    inputs, depth = batch(case), len(bare.stages)
    names = list(bare.module.state_dict())
    rowwise = Rowwise(bare)
    parts: list[tuple[int, Updates]] = [(1, unpack(bare, files[0])), (1, {}), (1, unpack(bare, files[1]))]
    if case.name in SHARED_BY_ROWS:
        with pytest.raises(ValueError, match="does not keep its rows apart"):
            rowwise(inputs, (depth,), parts)
        found = rowwise.one_by_one(inputs, (depth,), parts)[depth]
    else:
        found = rowwise(inputs, (depth,), parts)[depth]
    assert list(bare.module.state_dict()) == names
    for row, backbone in enumerate((first, build(case), second)):
        alone = copy.deepcopy(backbone)
        in_double(alone)
        assert gap(found[row], alone.run(inputs).h[row]) <= TOLERANCE, row
    # The same network serves another batch, and the bare one is bare.
    again = rowwise(inputs, (depth,), [(3, {})])[depth]
    assert torch.equal(again, bare.run(inputs).h.float())
    assert gap(rowwise.alone(unpack(bare, files[0])).run(inputs).h, first.run(inputs).h) <= TOLERANCE


def test_a_random_start_keeps_nothing_of_the_pretrained_weights(case: Case) -> None:
    backbone = copy.deepcopy(build(case))
    before = {name: value.clone() for name, value in backbone.module.named_parameters()}
    randomise(backbone, seed=4)
    after = dict(backbone.module.named_parameters())
    assert not [name for name, value in after.items() if torch.equal(value, before[name])]
    again = copy.deepcopy(build(case))
    randomise(again, seed=4)
    assert all(torch.equal(value, after[name]) for name, value in again.module.named_parameters())


def test_a_layer_that_standardises_its_weight_takes_no_low_rank_update() -> None:
    from timm.layers import ScaledStdConv2d, StdConv2d

    from unfreeze.grafts.targets import input_width, targetable

    for kind in (StdConv2d, ScaledStdConv2d):
        assert input_width(kind(4, 4, 1)) is None
    backbone = build(Case("test_nfnet", "opaque", 1, {"num_classes": 0}, size=64))
    kinds = {type(backbone.module.get_submodule(path)).__name__ for path in targetable(backbone)}
    assert not [kind for kind in kinds if "StdConv" in kind]


def test_a_convolution_that_peft_would_build_otherwise_takes_no_low_rank_update() -> None:
    from unfreeze.grafts.targets import input_width

    made = torch.nn.Conv2d
    assert input_width(made(4, 6, 3)) == 4
    assert input_width(made(4, 6, 3, dilation=2)) is None
    assert input_width(made(4, 6, 3, padding=1, padding_mode="reflect")) is None


def test_a_network_that_reads_of_a_layer_what_its_wrapping_lacks_is_refused_by_name() -> None:
    widths = {"embed_dims": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2]}
    case = Case("davit_tiny", "opaque", 1, {"depths": [1, 1, 1, 1], **widths})
    bare = build(case)
    sample = State(torch.zeros((1, 64, 64, 3), dtype=torch.uint8))
    graft = graft_of(bare, "lora")
    with pytest.raises(
        RequestError, match=r"davit_tiny cannot run .*kernel_size.*: choose other --targets or another"
    ):
        refuse_broken(attach(copy.deepcopy(bare), graft, seed=1), graft, sample)
    spared = Lora(rank=2, alpha=6.0, dropout=0.0, targets=resolve_targets(bare, ("qkv",)).paths)
    refuse_broken(attach(copy.deepcopy(bare), spared, seed=1), spared, sample)
