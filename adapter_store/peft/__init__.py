"""What a LoRA adapter may contain: PEFT's config file and its tensors."""
