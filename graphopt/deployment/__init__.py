"""What goes to where a model runs: the settings to load it with, ORT format, what ties it to a runtime."""
