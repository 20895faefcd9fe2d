"""Monitors on trainings with planted faults, and without."""
