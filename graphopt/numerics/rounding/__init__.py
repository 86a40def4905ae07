"""The noise floor: how far rounding alone moves the outputs of a source."""
