"""The Llama family, from scratch: the code that every chapter of the course arrives at."""

__version__ = "0.1.0"
