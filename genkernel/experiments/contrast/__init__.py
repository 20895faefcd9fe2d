"""Denoisers beside GANs: which blocks of the data a correction reaches (Guo, He, Morel, section 4.3)."""
