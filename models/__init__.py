"""Reference networks and their recipes; in an installed wheel this package is ``genkernel.models``."""
