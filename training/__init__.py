"""Training that ends in a package ready to upload: base models, LoRA, DP-SGD."""
