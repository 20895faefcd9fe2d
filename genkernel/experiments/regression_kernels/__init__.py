"""Kernels of a smooth and of a broken function of one variable (Guo, He, Morel, figure 2)."""
