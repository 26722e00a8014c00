"""Load a published adapter the way its card says, in a process of its own, and say what it computes.

Arguments: base id, base commit, adapter id, adapter commit, folder. The folder holds `prompts.json`, with device and
precision, and gets `logits.safetensors` and `generated.json`.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rocket_hub.inference.placement import Placement, where_it_fits

base_id, base_revision, adapter_id, adapter_revision, folder = sys.argv[1:]
told = json.loads((Path(folder) / "prompts.json").read_text())
device, dtype = torch.device(told["placement"]["device"]), getattr(torch, told["placement"]["dtype"].split(".")[1])
placement = Placement(device, dtype, told["placement"]["quantize"], told["placement"]["attention"])
where = where_it_fits(base_id, base_revision, placement)
base = AutoModelForCausalLM.from_pretrained(base_id, revision=base_revision, device_map=where, **placement.arguments)
tokenizer = AutoTokenizer.from_pretrained(base_id, revision=base_revision)
model = PeftModel.from_pretrained(base, adapter_id, revision=adapter_revision).eval()
logits, generated = {}, []
for number, prompt in enumerate(told["prompts"]):
    batch = tokenizer(prompt, return_tensors="pt").to(device)
    with torch.no_grad():
        logits[str(number)] = model(**batch).logits[0].float().cpu().contiguous()
    new = model.generate(**batch, max_new_tokens=32, do_sample=False, use_cache=True)
    generated.append(tokenizer.decode(new[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
save_file(logits, Path(folder) / "logits.safetensors")
(Path(folder) / "generated.json").write_text(json.dumps(generated))
