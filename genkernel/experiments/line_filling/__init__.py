"""Filling segments of a line with a network that could do so exactly (Courtois et al., section 6.1)."""
