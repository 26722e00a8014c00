"""The methods a build is measured against, and the build itself: what a task is worth without each ingredient."""

from rocket_hub.controls.merges import fresh_lora
from rocket_hub.controls.methods import (
    FRESH,
    PRODUCTS,
    ROUTED,
    ROUTED_FORMS,
    Group,
    Method,
    Parts,
    all_methods,
    recommend,
)
from rocket_hub.recipe import CONTROLS, CORE_CONTROLS, check_controls
from rocket_hub.results import Recommendation

__all__ = [
    "CONTROLS",
    "CORE_CONTROLS",
    "FRESH",
    "PRODUCTS",
    "ROUTED",
    "ROUTED_FORMS",
    "Group",
    "Method",
    "Parts",
    "Recommendation",
    "all_methods",
    "check_controls",
    "fresh_lora",
    "recommend",
]
