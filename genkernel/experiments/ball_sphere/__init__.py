"""A ball against a sphere, and two sides of a line (Courtois et al., sections 5.1 and 5.2)."""
