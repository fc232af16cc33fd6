"""Modules that do at import what no module should do."""
