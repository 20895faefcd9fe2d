"""Linear machines on tangent features (Guo, He, Morel, figure 3)."""
