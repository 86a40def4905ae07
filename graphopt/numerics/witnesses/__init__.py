"""Other runtimes as witnesses: whether what the passes made is right there, too."""
