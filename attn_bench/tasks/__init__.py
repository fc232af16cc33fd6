"""The built-in tasks, one package each, and their shared code; registered by entry points like any plugin."""
