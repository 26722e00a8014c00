from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from peft import ArrowConfig, XLoraConfig, create_arrow_model, get_peft_model
from safetensors.torch import load_file
from transformers import DynamicCache

from rocket_hub.controls.merges import write_experts
from rocket_hub.lora.attach import WEIGHTS
from rocket_hub.lora.expert import Expert
from rocket_hub.lora.write import write_adapter, write_lora

PREFIX = "base_model.internal_xlora_classifier."


def new_classifier(base: Any, experts: Sequence[Expert], folder: Path, **pin: Any) -> Path:
    """Write an X-LoRA with a new classifier, and nothing but that (Buehler and Buehler 2024).

    From the base's last hidden states it gives one weight to each token, module and expert, by softmax. The base is not
    touched; `pin` is its id and commit, for `write_lora`.
    """
    model = _xlora(base, experts, pin)
    model.save_pretrained(folder)
    return folder


@contextmanager
def xlora_model(
    base: Any, folder: Path, trained: bool = False, *, experts: Sequence[Expert], pin: dict[str, Any]
) -> Iterator[Any]:
    """Yield X-LoRA over experts with the classifier of a folder.

    Args:
        base: The base model; it is not touched.
        folder: What `new_classifier`, or a training, wrote.
        trained: Whether the classifier is to be trained; otherwise the model is made for inference.
        experts: The experts, in the order in which the classifier knows them.
        pin: The base model's id and commit, for `write_lora`.
    """
    model = _xlora(base, experts, pin)
    model.load_adapter(folder)
    if trained:
        _remember_hidden_states(model)
        yield model
        return
    model.eval()
    inner = model.get_base_model()  # the transformers model, with the experts in its layers
    _keep_two_caches(inner)
    with ExitStack() as stack:
        # PEFT switches X-LoRA on only inside its own `forward` and `generate`; generation here goes past them.
        stack.enter_context(model.base_model._enable_peft_forward_hooks())
        yield inner


def _xlora(base: Any, experts: Sequence[Expert], pin: dict[str, Any]) -> Any:
    """Put PEFT's X-LoRA on a copy of the base, with a new classifier."""
    with TemporaryDirectory(prefix="rocket-hub-") as place:
        paths = write_experts(experts, Path(place), **pin)
        config = XLoraConfig(
            task_type="CAUSAL_LM",
            hidden_size=base.config.hidden_size,
            adapters={str(number): str(path) for number, path in enumerate(paths)},
            layerwise_scalings=True,
        )
        model: Any = get_peft_model(_copy(base), config)
    config.adapters = {}  # they were in a folder that is gone; whoever opens the classifier writes them again
    _save_the_classifier(model)
    return model


def _save_the_classifier(model: Any) -> None:
    """Make the model save and load the classifier and nothing else, in PEFT's names.

    PEFT 0.21 takes the classifier's `layers.0` for a part of the first expert, which is called `0`, and leaves it out.
    """
    classifier, config = model.base_model.internal_xlora_classifier, model.peft_config["default"]

    def save(folder: Any, **_: Any) -> None:
        tensors = {f"{PREFIX}{name}": tensor for name, tensor in classifier.state_dict().items()}
        write_adapter(tensors, config, folder)

    def load(folder: Any, *_: Any, **__: Any) -> None:
        tensors = load_file(Path(folder) / WEIGHTS)
        classifier.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})

    model.save_pretrained, model.load_adapter = save, load


def _copy(base: Any) -> Any:
    """Copy the base: X-LoRA cannot be taken off a model, and refuses one that caches by default."""
    model = copied(base)
    model.config.use_cache = False
    return model


def _remember_hidden_states(model: Any) -> None:
    """Give the classifier the base's hidden states, which the head that TRL puts on a model in training leaves out."""
    inner, seen = model.get_base_model(), dict[str, Any]()

    def remember(_: Any, inputs: Any, output: Any) -> None:
        if output.hidden_states is not None:
            seen["result"] = output

    def complete(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs if hasattr(kwargs["result"], "hidden_states") else {**kwargs, **seen}

    inner.base_model.register_forward_hook(remember)
    model.base_model.internal_xlora_classifier.register_forward_pre_hook(complete, with_kwargs=True)


def _keep_two_caches(model: Any) -> None:
    """Let X-LoRA use a KV cache, which PEFT itself turns off.

    Each forward pass is two, the bare base's for the classifier and then the real one. The base's layers of the cache
    are kept behind the others, so that whoever selects rows of the cache selects theirs, too.
    """
    plain, depth = model.forward, model.config.num_hidden_layers
    beside: list[Any] = []

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if cache is None and not kwargs.get("use_cache"):
            return plain(*args, **kwargs)
        if kwargs.get("output_hidden_states"):  # only the pass for the classifier asks for them
            own = DynamicCache(config=model.config)
            if cache is not None and len(cache.layers) > depth:
                own.layers, cache.layers = cache.layers[depth:], cache.layers[:depth]
            found = plain(*args, **{**kwargs, "past_key_values": own, "use_cache": True})
            beside[:] = own.layers
            return found
        found = plain(*args, **kwargs)
        found.past_key_values.layers.extend(beside)
        return found

    model.forward = forward


TOP_K = 3  # PEFT's default
EXPERT = "expert-"


def padded_experts(base: Any, experts: Sequence[Expert], folder: Path, **pin: Any) -> Path:
    """Write the experts as plain LoRAs of one rank over the same modules, which Arrow in PEFT asks for.

    Zeros fill up what an expert lacks: its ΔW stays the same. Arrow names modules by their last name, so where an
    expert adapts one module of a name, all of that name get weights.

    Args:
        base: The base model; names the modules.
        experts: The experts.
        folder: Folder to write; gets one folder an expert.
        **pin: The base model's id and commit, for `write_lora`.
    """
    sizes = {name: (a.shape[1], b.shape[0]) for expert in experts for name, (a, b) in expert.modules.items()}
    endings = {name.rpartition(".")[2]: size for name, size in sizes.items()}
    for name, module in base.named_modules():
        if name.rpartition(".")[2] in endings and isinstance(getattr(module, "weight", None), torch.Tensor):
            sizes.setdefault(name, (module.in_features, module.out_features))
    rank = max(a.shape[0] for expert in experts for a, _ in expert.modules.values())
    for number, expert in enumerate(experts):
        modules = {}
        for name, (width, height) in sizes.items():
            a, b = expert.modules.get(name, (torch.zeros(0, width), torch.zeros(height, 0)))
            missing = rank - a.shape[0]
            modules[name] = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))
        write_lora(modules, folder / f"{EXPERT}{number}", everywhere=set(endings), **pin)
    return folder


@contextmanager
def arrow_model(base: Any, folder: Path, trained: bool = False, *, seed: int = 0) -> Iterator[Any]:
    """Yield the base model with PEFT's Arrow router over the experts that `padded_experts` wrote.

    The base is given back as it was. Arrow has nothing to train; `seed` is that of PEFT's power iteration.
    """
    paths = sorted(folder.glob(f"{EXPERT}*"), key=lambda path: int(path.name.removeprefix(EXPERT)))
    config = ArrowConfig(top_k=min(TOP_K, len(paths)), rng_seed=seed)
    model = create_arrow_model(base, [str(path) for path in paths], config).eval()
    try:
        yield model
    finally:
        model.unload()


@contextmanager
def full_model(base: Any, folder: Path, trained: bool = False) -> Iterator[Any]:
    """Yield the model that was saved in a folder; where nothing was saved yet, a copy of the base, itself untouched."""
    if (folder / "config.json").is_file():
        model = type(base).from_pretrained(str(folder), dtype=base.dtype).to(base.device)
    else:
        model = copied(base)
    yield model.requires_grad_(trained).train(trained)


def copied(base: Any) -> Any:
    """Copy a model; a training may have left it a `forward` that would call the original."""
    model = deepcopy(base)
    vars(model).pop("forward", None)
    return model
