"""Do contributions foresee what other loss weightings of a diffusion model do."""
