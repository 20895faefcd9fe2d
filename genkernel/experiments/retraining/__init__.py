"""Contributions beside trainings without some of the data."""
