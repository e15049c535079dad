"""Fewer bytes: linear layers replaced, and weights in 8 and 4 bits."""
