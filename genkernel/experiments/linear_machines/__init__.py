"""Networks whose kernel is known in closed form (Courtois et al., sections 4.1 and 4.2)."""
