"""How local in noise level denoisers are (Guo, He, Morel, section 4.1)."""
