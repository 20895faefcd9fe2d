"""Printed digits and letters: similarity to the training classes beside accuracy (Guo, He, Morel, figures 5 and 6)."""
