"""Training for real: a recipe, the run in its folder, what it resumes from, and text in rows."""
