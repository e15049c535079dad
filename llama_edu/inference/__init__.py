"""Generating fast: a layout for decoding, recorded passes, drafts, and a talk in a terminal."""
