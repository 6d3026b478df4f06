"""A whole recipe in one go: steps that are skipped when their inputs have not changed, estimates, progress."""
