"""Patterns: the language they are written in, how they are matched, and what takes their place."""
