"""An example plugin for graphopt."""
