"""Images in, tensors out: folders, ``.npz`` archives, arrays, torchvision data sets."""

from genkernel.data.images import ImageSet, check_source, load_images
from genkernel.data.printed import printed_characters

__all__ = ["ImageSet", "check_source", "load_images", "printed_characters"]
