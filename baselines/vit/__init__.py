"""timm's vision transformer."""
