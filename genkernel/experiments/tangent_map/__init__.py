"""Maps of tangent features (Guo, He, Morel, figure 4)."""
