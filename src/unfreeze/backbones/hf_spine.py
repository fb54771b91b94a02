"""Running a part of a transformers model with the model's own code.

The model's ``forward`` builds masks, rotary tables and relative positions, and hands them to its layers. So a
part is run by the model itself, on a view of it: shallow copies of the few modules on the way, which share
all parameters and buffers. In the view, the list of layers keeps its length (its positions mean something:
kinds of attention, indices of caches), layers outside of the part hand their input on, and the stored
activations take the place of what the embedding would give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unfreeze.backbones.hf_masks import told

if TYPE_CHECKING:
    from torch import Tensor, nn

_FINAL_NORMS = ("norm", "final_norm", "ln_f", "final_layernorm", "final_layer_norm")


@dataclass(frozen=True)
class Spine:
    """Where the layers of a transformer stand.

    ``layers``: path of the list, such as ``encoder.layer``. ``norm``: path of the norm behind the last layer,
    or None. ``tuple_length``: 0 when a layer returns a tensor, else the length of the tuple it returns.
    """

    layers: str
    depth: int
    norm: str | None
    tuple_length: int

    @property
    def parent(self) -> str:
        """Path of the module that holds the list; empty for the model itself."""
        return self.layers.rpartition(".")[0]


def find_spine(model: Any) -> Spine | None:
    """The spine of a transformers model, or None when it has no plain list of layers that it calls."""
    from torch import nn

    depth = int(getattr(model.config, "num_hidden_layers", 0))
    lists = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth > 0
    ]
    if not lists:
        return None
    layers = min(lists, key=lambda path: path.count("."))
    parent = layers.rpartition(".")[0]
    holder = model.get_submodule(parent)
    name = next((name for name in _FINAL_NORMS if isinstance(getattr(holder, name, None), nn.Module)), None)
    norm = None if name is None else f"{parent}.{name}".lstrip(".")
    length = _tuple_length(model, model.get_submodule(layers)[0])
    return None if length is None else Spine(layers, depth, norm, length)


def run_layers(
    model: Any, spine: Spine, h: Tensor, mask: Tensor, *, start: int, stop: int, full: bool | None = None
) -> Tensor:
    """Hidden states (batch, tokens, width) at boundary ``stop`` from what stands at ``start``.

    Boundary 0: token ids; 1: what the embedding gives; 1 + i: what i layers give; depth + 2: what the model
    returns, behind its last norm. ``mask`` is bool (batch, tokens); ``full`` as in ``State``.
    """
    import torch

    if start == 0 and stop == spine.depth + 2:
        return last_hidden(model, h, mask, full=full)
    view = _view(model, spine, None if start == 0 else h, start=start, stop=stop)
    ids = h if start == 0 else torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    return last_hidden(view, ids, mask, full=full)


def last_hidden(model: Any, ids: Tensor, mask: Tensor, *, full: bool | None = None) -> Tensor:
    """What a transformers model returns for token ids and a bool mask (batch, tokens); ``full`` as in ``State``."""
    import torch

    caching = {} if getattr(model.config, "use_cache", None) is None else {"use_cache": False}
    view = model if full is None else _with_told_configs(model, full)
    out: Tensor = view(input_ids=ids, attention_mask=mask.to(torch.long), **caching).last_hidden_state
    return out


def _view(model: nn.Module, spine: Spine, h: Tensor | None, *, start: int, stop: int) -> nn.Module:
    """A view of the model that runs layers [start - 1, stop - 1) on stored ``h``, or else on its ids."""
    from torch import nn

    first, last = max(start - 1, 0), min(stop - 1, spine.depth)
    layers = model.get_submodule(spine.layers)
    views = [
        layer if first <= index < last else _hand_on(layer, spine.tuple_length)
        for index, layer in enumerate(layers.children())
    ]
    if h is not None and not spine.parent:
        views[0] = _with_input(views[0], h)
    listed = _shallow(layers)
    listed.__dict__["_modules"] = {str(index): view for index, view in enumerate(views)}
    replaced: dict[str, nn.Module | None] = {spine.layers: listed}
    if spine.norm is not None and stop < spine.depth + 2:
        replaced[spine.norm] = nn.Identity()
    if first > 0 or last == 0:
        replaced |= dict.fromkeys(first_layer_extras(model, spine))
    view = _replace(model, replaced)
    if h is not None and spine.parent:
        view = _replace(view, {spine.parent: _with_input(view.get_submodule(spine.parent), h)})
    return view


def first_layer_extras(model: nn.Module, spine: Spine) -> tuple[str, ...]:
    """Paths of modules that the model runs right behind its first layer and skips when they are None.

    There is one in the libraries: DeBERTa's convolution.
    """
    held = model.get_submodule(spine.parent)._modules
    return (f"{spine.parent}.conv".lstrip("."),) if held.get("conv") is not None else ()


def _shallow(module: nn.Module) -> nn.Module:
    """A copy that shares parameters, buffers and submodules, and whose submodules can be replaced."""
    # FSDP gives modules a class whose own way to make one would set up a new layer.
    copied = object.__new__(type(module))
    copied.__dict__.update(module.__dict__)
    copied.__dict__["_modules"] = dict(module._modules)
    return copied


def _replace(root: nn.Module, replaced: Mapping[str, nn.Module | None]) -> nn.Module:
    """A shallow copy of ``root`` with other modules at these paths."""
    view = _shallow(root)
    for path, module in replaced.items():
        *way, name = path.split(".")
        holder = view
        for part in way:
            inner = _shallow(holder.get_submodule(part))
            holder._modules[part] = inner
            holder = inner
        holder._modules[name] = module
    return view


def _with_told_configs(model: nn.Module, full: bool) -> nn.Module:
    """A view of a model that makes its masks as they are where ``full`` is known, and does not look."""
    view = _shallow(model)
    # An encoder of its own, as T5's, makes them by its own configuration.
    inner = {name: module for name, module in model.named_children() if hasattr(module, "config_class")}
    for name, module in inner.items():
        view._modules[name] = _with_told_configs(module, full)
    view.__dict__["config"] = told(model.config, full)
    return view


def _hand_on(layer: nn.Module, tuple_length: int) -> nn.Module:
    """A view of a layer that returns its input, in the form in which the layer returns its output."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        h = args[0] if args else kwargs["hidden_states"]
        return (h, *[None] * (tuple_length - 1)) if tuple_length else h

    view = _shallow(layer)
    # What is grafted onto the layer is not run either, and nothing is put together for it.
    view.__dict__ |= {"forward": forward, "_forward_hooks": {}, "_forward_pre_hooks": {}}
    return view


def _with_input(module: nn.Module, h: Tensor) -> nn.Module:
    """A view of a module that reads ``h`` in place of the hidden states it is given."""
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args:
            return inner(h, *args[1:], **kwargs)
        return inner(**{**kwargs, "hidden_states": h})

    view = _shallow(module)
    view.__dict__["forward"] = forward
    return view


def _tuple_length(model: Any, layer: nn.Module) -> int | None:
    """How a layer of the model returns its output: 0 for a tensor, else the length of the tuple.

    None where the model goes past the layer's call, as SqueezeBERT does: a view's input would not reach it.
    """
    import torch

    lengths: list[int] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        lengths.append(len(output) if isinstance(output, tuple) else 0)

    handle = layer.register_forward_hook(note)
    try:
        with torch.no_grad():
            ids = torch.ones((1, 2), dtype=torch.long)
            last_hidden(model, ids, torch.ones_like(ids, dtype=torch.bool))
    finally:
        handle.remove()
    return lengths[0] if lengths else None
