"""Checks: feeds, sessions, comparison and verdicts."""
