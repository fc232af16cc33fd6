"""The built-in tasks, one package each, and what they share. Registered by entry point like anyone's."""
