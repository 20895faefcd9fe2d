"""Classifiers: the wrapper, and what their kernels make of classes."""

from genkernel.classifier.classifier import Classifier

__all__ = ["Classifier"]
