"""The training text that this course makes itself, and how it is packed."""
