"""Which directions new samples need that training samples never showed (Guo, He, Morel, figures 7 and 8)."""
