"""The texts that this course makes itself: tales, and samples for looking at tokens."""
