"""PSAQ-ViT: images made from the model itself."""
