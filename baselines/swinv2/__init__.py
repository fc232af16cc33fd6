"""timm's Swin Transformer V2."""
