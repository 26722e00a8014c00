"""What a LoRA folder is: its configuration, its tensors, and how one is written and attached."""
