"""Feeds for a real model, found without help: what its operators demand, and what to draw."""
