"""What the plugins of models share."""
