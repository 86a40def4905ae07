"""The local check: what a pass did at each place, computed before and after in float64."""
