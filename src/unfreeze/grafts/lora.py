"""Low-rank updates through PEFT: put on, read out, put back, merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from unfreeze.errors import UnfreezeError
from unfreeze.grafts.attach import PREFIX
from unfreeze.grafts.targets import is_transposed
from unfreeze.plan import Lora


def add_lora(module: nn.Module, lora: Lora) -> None:
    """Wrap the target layers; raises UnfreezeError when PEFT wrapped others than those."""
    inject_adapter_in_model(_config(lora, module), module)
    wrapped = {path for path, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
    if wrapped != set(lora.targets):
        odd = sorted(wrapped ^ set(lora.targets))[0]
        raise UnfreezeError(f"PEFT and the list of targets disagree about {odd!r}.")


def merge_lora(module: nn.Module) -> None:
    """Add the updates to the weights and take the wrapping off: the names are the network's own again."""
    for path, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, layer.get_base_layer())
    del module.peft_config


def lora_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The updates by the names that PEFT saves them under."""
    found = get_peft_model_state_dict(module)
    return {f"{PREFIX}{name}": tensor.detach().cpu().clone() for name, tensor in found.items()}


def load_lora(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved updates in place; raises ValueError when the names are not those of this network."""
    wanted = {f"{PREFIX}{name}" for name in get_peft_model_state_dict(module)}
    if wanted != tensors.keys():
        raise ValueError(f"the adapter holds other tensors: {sorted(wanted ^ tensors.keys())[0]!r}")
    set_peft_model_state_dict(module, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})


def lora_config_json(module: nn.Module, lora: Lora, *, base: str) -> str:
    """``adapter_config.json`` as PEFT writes it, with the base model named."""
    values = _config(lora, module).to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    return json.dumps(plain, indent=2, sort_keys=True)


def _config(lora: Lora, module: nn.Module) -> Any:
    layers = (module.get_submodule(path) for path in lora.targets)
    bare = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
        fan_in_fan_out=any(map(is_transposed, bare)),
    )
