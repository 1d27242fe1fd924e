"""Built-in worlds."""
