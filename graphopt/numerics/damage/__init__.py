"""What a difference means to who uses the model: the decisions in its outputs, before and after."""
