"""What must hold of a pass on any model: it can be run, and checked, on one model after the other."""
