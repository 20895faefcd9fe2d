"""How far stochastic differential equations are from the optimizers they model."""
