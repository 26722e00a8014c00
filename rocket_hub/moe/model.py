import warnings
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, _get_in_out_features
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from rocket_hub.errors import RecipeError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.layer import Linear, RocketMoeLayer, refuse_merge
from rocket_hub.moe.losses import AuxiliaryLosses
from rocket_hub.moe.router import Router


class RocketMoeModel(BaseTuner):
    """PEFT's tuner for routed LoRA experts, which cannot be merged into the base; see `rocket_hub.collapse_to_lora`."""

    prefix: str = "rocket_moe_"
    tuner_layer_cls = RocketMoeLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; see `PeftModel.delete_adapter`."""
        super().delete_adapter(adapter_name)
        self._forget_losses(adapter_name)
        for key in [key for key in self._shared_routers() if key[0] == adapter_name]:
            del self._shared_routers()[key]

    def unload(self) -> nn.Module:
        """Take all adapters out; see `PeftModel.unload`."""
        for adapter_name in list(self._losses()):
            self._forget_losses(adapter_name)
        return super().unload()

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        """Compare an adapter's configuration with the base before anything is changed."""
        super()._check_new_adapter_config(config)
        if isinstance(config, RocketMoeConfig) and not (config.inference_mode or config.base_quantization):
            config.base_quantization = quantization_of(self.model)  # a new adapter, or one that is trained on
        warn_other_quantization(self.model, config)

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
            shared = self._shared(adapter_name, target.in_features, peft_config)
            target.update_layer(adapter_name, ranks, peft_config, inference_mode=peft_config.inference_mode, **shared)
            return
        if not isinstance(target, (nn.Linear, Conv1D)) and not (
            hasattr(target, "in_features") and hasattr(target, "out_features")
        ):
            raise RecipeError(
                f"target_modules: '{current_key}' is a {type(target).__name__}, experts fit linear layers only; "
                "name its linear sub-modules instead, or put it into exclude_modules"
            )
        shared = self._shared(adapter_name, _get_in_out_features(target)[0], peft_config)
        layer = Linear(target, adapter_name, ranks, peft_config, **shared)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # an adapter that is added beside an active one is not trained
        self._replace_module(parent, target_name, layer, target)

    def _shared(self, adapter_name: str, width: Any, config: RocketMoeConfig) -> dict[str, Any]:
        """Return what a layer of the given input width shares with others of the adapter: router and losses."""
        shared: dict[str, Any] = {}
        if config.load_balance_coef or config.entropy_coef or config.z_coef:
            if adapter_name not in self._losses():
                losses = AuxiliaryLosses(config)
                hook = self.model.register_forward_pre_hook(losses.see_inputs, with_kwargs=True)
                self._losses()[adapter_name] = losses, hook
            shared["losses"] = self._losses()[adapter_name][0]
        if config.router == "shared":
            routers = self._shared_routers()
            if (adapter_name, width) not in routers:
                routers[adapter_name, width] = Router(width, config)
            shared["router"] = routers[adapter_name, width]
        return shared

    # BaseTuner injects from its constructor, before a subclass could set attributes; and what is not in __dict__ would
    # be looked up in the base model.
    def _losses(self) -> dict[str, tuple[AuxiliaryLosses, RemovableHandle]]:
        return self.__dict__.setdefault("_auxiliary_losses", {})

    def _shared_routers(self) -> dict[tuple[str, int], Router]:
        # A plain dict: they belong to the layers.
        return self.__dict__.setdefault("_routers_by_width", {})

    def _forget_losses(self, adapter_name: str) -> None:
        """Let the model go that an adapter's losses watch."""
        if found := self._losses().pop(adapter_name, None):
            found[1].remove()

    def _check_merge_allowed(self) -> None:
        """Refuse before any layer is touched."""
        refuse_merge()


def quantization_of(model: nn.Module) -> str | None:
    """Return how a model's weights are quantised, for example `bitsandbytes-4bit-nf4`; None if they are not."""
    found: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    if found is None:
        return None
    settings = found if isinstance(found, dict) else found.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))
    bits = next((bits for bits in (4, 8) if settings.get(f"load_in_{bits}bit")), settings.get("bits"))
    parts = [method, f"{bits}bit" if bits else None, settings.get("bnb_4bit_quant_type") if bits == 4 else None]
    return "-".join(part for part in parts if part)


def warn_other_quantization(model: nn.Module, config: PeftConfig) -> None:
    """Warn if an adapter was trained on a base that was quantised in another way than this one."""
    recorded, actual = getattr(config, "base_quantization", None), quantization_of(model)
    # A new adapter records nothing yet, and is about to be trained on the base as it is.
    if recorded != actual and (recorded is not None or config.inference_mode):
        warnings.warn(
            f"base_quantization: the adapter was trained on a base quantised as {recorded or 'not at all'}, this one "
            f"is {actual or 'not quantised'}; its outputs will differ (logits by up to 0.1 on a toy model, fp32 "
            "against 4 bit). Load the base as recorded, or measure again",
            UserWarning,
            stacklevel=3,
        )
