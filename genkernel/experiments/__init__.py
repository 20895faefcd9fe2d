"""Studies: many runs, what they show and what they do not."""
