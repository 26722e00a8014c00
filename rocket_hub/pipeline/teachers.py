"""The teacher that a recipe names: a model on this machine, behind Hugging Face Inference, or at an address."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rocket_hub.discovery.pins import named, pin_model, without_place
from rocket_hub.errors import InputError
from rocket_hub.generation.teacher import EndpointTeacher, InferenceTeacher, LocalTeacher, Teacher
from rocket_hub.records import Pinned

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KEY = "ROCKET_HUB_TEACHER_KEY"
"""Environment variable with the key of a teacher at an address; it is in no recipe, and written nowhere."""


@dataclass(frozen=True)
class NamedTeacher:
    """A teacher that can be asked.

    Attributes:
        origin: The model at its commit with its licence; of one at an address nothing is known but its name.
        open: Gives the teacher; a local model is loaded only then.
    """

    origin: Pinned
    open: Callable[[], Teacher]


def find_teacher(api: HfApi, text: str, dtype: str, key_env: str | None = None) -> NamedTeacher:
    """Find the teacher that a recipe or the command line names.

    Args:
        api: The Hub.
        text: `ID` or a folder (a model on this machine), `inference:ID` (Hugging Face Inference) or
            `endpoint:URL#MODEL` (an OpenAI-compatible address, up to /v1).
        dtype: `float32` or `bfloat16`, of a local model.
        key_env: Environment variable that holds an address's key; none = `ROCKET_HUB_TEACHER_KEY`, where that is set.

    Raises:
        InputError: An address without a model, no address, or a variable for its key that is empty or not needed.
        HubError: There is no such model on the Hub.
    """
    if text.startswith("endpoint:"):
        url, _, model = text.removeprefix("endpoint:").rpartition("#")
        if not (url and model):
            raise InputError(
                f"teacher {text}: expected endpoint:URL#MODEL, as in endpoint:http://localhost:8000/v1#name"
            )
        if key_env and not os.environ.get(key_env):
            raise InputError(f"the key of {text}: the environment variable {key_env} is empty; put the key into it")
        teacher = EndpointTeacher(url, model, os.environ.get(key_env or KEY, ""))
        return NamedTeacher(Pinned(teacher.name, "", "teacher", "other"), lambda: teacher)
    if key_env:
        raise InputError(f"teacher {text}: only endpoint:URL#MODEL has a key ({key_env}); sign in to the Hub instead")
    name = text.removeprefix("inference:")
    origin = without_place(pin_model(api, name))
    if name != text:
        return NamedTeacher(origin, lambda: InferenceTeacher(name))
    return NamedTeacher(origin, lambda: _local(name, origin, dtype))


def _local(model_id: str, origin: Pinned, dtype: str) -> Teacher:
    """Load a model on this machine."""
    from rocket_hub.base_models import load_base

    return LocalTeacher(*load_base(model_id, origin.revision or None, dtype), name=named(origin))
