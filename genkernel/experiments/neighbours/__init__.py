"""Nearest neighbours in the kernel over training, with four optimizers (Guo, He, Morel, figures 1, 9 and 10)."""
