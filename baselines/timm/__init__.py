"""Any image classifier of timm."""
