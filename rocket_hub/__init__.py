"""From K verified examples to a published mixture of LoRA experts.

The public names below are loaded on first use, so `import rocket_hub` imports neither torch nor transformers nor peft.
It is all that `PeftModel.from_pretrained` needs to load a ROCKET_MOE adapter (see `rocket_hub.autoload`).
"""

from importlib import import_module
from typing import Any

from rocket_hub.autoload import register_with_peft

__version__ = "0.1.0"

_HOME = {
    "Recipe": "recipe",
    "build": "pipeline",
    "load_kshot": "rows.kshot",
    "discover_adapters": "discovery.adapters",
    "discover_datasets": "discovery.instructions",
    "load_instructions": "discovery.instructions",
    "exact_match": "selection.scoring",
    "reasoning_perplexity": "selection.scoring",
    "group_diversity": "selection.groups",
    "select_experts": "selection.experts",
    "select_instructions": "selection.instructions",
    "RocketMoeConfig": "moe.config",
    "RocketMoeModel": "moe.model",
    "merge_experts": "moe.merging",
    "collapse_to_lora": "moe.collapsing",
    "train_expert": "training",
    "evaluate": "evaluation",
    "create_model_card": "publishing",
    "push_to_hub": "publishing",
    "RocketError": "errors",
    "Example": "records",
    "AdapterCandidate": "records",
    "DatasetCandidate": "records",
    "Rejection": "records",
    "AdapterDiscovery": "records",
    "DatasetDiscovery": "records",
    "ExpertScore": "records",
    "ExpertSelection": "records",
    "InstructionSelection": "records",
    "Evaluation": "records",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'rocket_hub' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"rocket_hub.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOME})


register_with_peft()
