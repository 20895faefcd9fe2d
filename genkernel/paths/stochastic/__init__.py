"""Training as a stochastic process: gradient noise, the diffusions of the optimizers, and ensembles over seeds."""
