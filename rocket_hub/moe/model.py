"""The tuner: puts ROCKET_MOE layers into a model."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from rocket_hub.errors import RecipeError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.layer import Linear, RocketMoeLayer, refuse_merge


class RocketMoeModel(BaseTuner):
    """A model whose target layers carry routed LoRA experts.

    Made by `get_peft_model` or `PeftModel.from_pretrained`, never by hand. Adapters can be added, switched, disabled,
    deleted and unloaded as with LoRA; they cannot be merged, see `rocket_hub.collapse_to_lora`.
    """

    prefix: str = "rocket_moe_"
    tuner_layer_cls = RocketMoeLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: RocketMoeConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        """Give one target module its experts, wrapping it on first use."""
        pattern = get_pattern_key(list(peft_config.rank_pattern), current_key)
        ranks = peft_config.rank_pattern.get(pattern, peft_config.expert_ranks)
        if isinstance(target, RocketMoeLayer):
            target.update_layer(adapter_name, ranks, peft_config, inference_mode=peft_config.inference_mode)
            return
        if not isinstance(target, (nn.Linear, Conv1D)) and not (
            hasattr(target, "in_features") and hasattr(target, "out_features")
        ):
            raise RecipeError(
                f"target_modules: '{current_key}' is a {type(target).__name__}, experts fit linear layers only; "
                "name its linear sub-modules instead, or put it into exclude_modules"
            )
        layer = Linear(target, adapter_name, ranks, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # an adapter that is added beside an active one is not trained
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        """Refuse before any layer is touched."""
        refuse_merge()
