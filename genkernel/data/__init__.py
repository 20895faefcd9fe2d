"""Images in, tensors out: folders, ``.npz`` archives, arrays, torchvision data sets."""

from genkernel.data.images import ImageSet, check_source, load_images

__all__ = ["ImageSet", "check_source", "load_images"]
