"""Which variant of a model is fastest here: measured side by side, and preferred only beyond noise."""
