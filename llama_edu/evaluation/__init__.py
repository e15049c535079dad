"""What a model is worth, measured as others measure it."""
