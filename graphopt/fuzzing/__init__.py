"""Attacks passes with generated and mutated models."""
