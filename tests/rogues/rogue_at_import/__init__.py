"""Plugins that do harm when the harness imports them."""
