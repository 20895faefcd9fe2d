"""Networks of torchvision and diffusers for the table of architectures; each module has ``architectures()``."""
