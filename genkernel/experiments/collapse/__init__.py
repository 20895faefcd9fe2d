"""The collapse study of small GANs: trainings, interventions, statistics, figures."""
