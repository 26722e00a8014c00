"""Stock datasets, transformers and peft against a hub: load, pin, push; the results go into one JSON object."""

import json
import sys

import torch
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

API = HfApi()
BASE, DATA = "acme/tiny", "acme/questions"


def datasets():
    streamed = load_dataset(DATA, split="train", streaming=True)
    pinned = load_dataset(DATA, split="train", revision=API.dataset_info(DATA).sha)
    Dataset.from_dict({"question": ["2 + 2"], "answer": ["4"]}).push_to_hub("local/pushed-data")
    return {
        "full": load_dataset(DATA, split="train").to_list(),
        "streamed": list(streamed),
        "pinned": len(pinned),
        "pushed": load_dataset("local/pushed-data", split="train").to_list(),
        "format": [tag for tag in API.dataset_info("local/pushed-data").tags if tag.startswith("format:")],
    }


def transformers():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE)
    model.push_to_hub("local/pushed-model")
    info = API.model_info("local/pushed-model")
    return {
        "tokens": tokenizer("what is 1 + 2").input_ids,
        "hidden": model.config.hidden_size,
        "pushed": [sibling.rfilename for sibling in info.siblings],
        "architectures": info.config["architectures"],
        "parameters": info.safetensors.total == sum(p.numel() for p in model.parameters()),
    }


def peft():
    base = AutoModelForCausalLM.from_pretrained(BASE)
    inputs = torch.tensor([[1, 6, 7]])
    plain = base(inputs).logits
    torch.manual_seed(0)
    trained = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    expected = trained(inputs).logits
    trained.push_to_hub("local/pushed-lora")
    sha = API.model_info("local/pushed-lora").sha
    fresh = AutoModelForCausalLM.from_pretrained(BASE)
    loaded = PeftModel.from_pretrained(fresh, "local/pushed-lora", revision=sha)
    # The card that push_to_hub writes names no base model; the one of save_pretrained does.
    trained.save_pretrained(sys.argv[1])
    API.create_repo("local/saved-lora")
    API.upload_folder(repo_id="local/saved-lora", folder_path=sys.argv[1])
    info = API.model_info("local/saved-lora")
    return {
        "changed": not torch.allclose(plain, expected),
        "equal": torch.allclose(loaded(inputs).logits, expected),
        "base": info.base_models,
        "library": info.library_name,
        "found": [model.id for model in API.list_models(filter=f"base_model:adapter:{BASE}")],
    }


print(json.dumps({check.__name__: check() for check in (datasets, transformers, peft)}, default=str))
