"""LoRA adapters: what is listed, what fits the base, and why the rest does not."""
