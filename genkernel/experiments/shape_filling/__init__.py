"""A U-Net that fills planar shapes (Courtois et al., section 6.2)."""
