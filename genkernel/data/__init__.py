"""Images in, tensors out: folders, ``.npz`` archives, arrays, torchvision data sets."""

from genkernel.data.images import ImageSet, load_images

__all__ = ["ImageSet", "load_images"]
