"""Sequences with peaks (Courtois et al., section 6.3)."""
