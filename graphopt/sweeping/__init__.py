"""Every model through every pipeline: tasks, where they run, and their results in one file."""
