"""The ROCKET_MOE adapter type for PEFT: stacked LoRA experts with a learned gate per token and adapted layer.

Importing this package registers the type, after which `get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`
and the Auto classes handle it like a built-in one. Laid out like `peft/tuners/poly`.
"""

from typing import Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.losses import AuxiliaryLossCallback
from rocket_hub.moe.model import RocketMoeModel
from rocket_hub.moe.router import router_parameters

__all__ = ["AuxiliaryLossCallback", "RocketMoeConfig", "RocketMoeModel", "register", "router_parameters"]

PEFT_TYPE = "ROCKET_MOE"


def register() -> None:
    """Register ROCKET_MOE with the installed PEFT; a second call does nothing.

    PEFT looks its methods up by members of the enum `PeftType`, and an enum is closed: the member is made by hand, the
    way `EnumType` makes it. `register_peft_method` does the rest.
    """
    if PEFT_TYPE not in PeftType.__members__:
        member: Any = str.__new__(PeftType, PEFT_TYPE)
        member._name_ = member._value_ = PEFT_TYPE
        member.__objclass__ = PeftType
        member._sort_order_ = len(PeftType.__members__)
        # EnumType.__setattr__ refuses members, and from Python 3.12 on members are found as class attributes only.
        type.__setattr__(PeftType, PEFT_TYPE, member)
        PeftType._member_names_.append(PEFT_TYPE)
        PeftType._member_map_[PEFT_TYPE] = member
        PeftType._value2member_map_[PEFT_TYPE] = member
        getattr(PeftType, "_hashable_values_", []).append(PEFT_TYPE)  # Python 3.13 and later
    if PEFT_TYPE not in PEFT_TYPE_TO_CONFIG_MAPPING:
        # Transformers derives the prefix from the type's name, so it must be the name in lower case and "_".
        register_peft_method(
            name=PEFT_TYPE.lower(), config_cls=RocketMoeConfig, model_cls=RocketMoeModel, prefix=RocketMoeModel.prefix
        )


register()
