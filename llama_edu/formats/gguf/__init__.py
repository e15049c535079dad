"""GGUF: one file with a header of fields, the vocabulary among them, and the weights."""
