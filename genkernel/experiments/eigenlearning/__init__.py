"""Errors of kernel regression and of networks, predicted from eigenvalues alone."""
