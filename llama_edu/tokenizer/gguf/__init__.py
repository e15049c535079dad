"""The vocabulary in the fields of a GGUF file: how it is read, and written."""
