"""Test losses predicted by the effective Gram matrix."""
