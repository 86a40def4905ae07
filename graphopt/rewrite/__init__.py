"""What a pass is and how it is applied."""
