"""Generating fast: a layout for decoding, recorded passes, drafts, batches of pages, and a talk."""
