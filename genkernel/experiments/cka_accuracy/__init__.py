"""Alignment with the labels beside accuracy, over architectures (Guo, He, Morel, section 5)."""
