"""Kernels of images by class, before and after training (Guo, He, Morel, figure 2)."""
