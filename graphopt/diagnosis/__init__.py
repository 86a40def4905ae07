"""Which rewrite broke a model, where it shows, and why."""
