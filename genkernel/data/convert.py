"""Bring stacks of images to one shape and range, and say in words what was changed.

Every function returns the converted tensor and the list of steps taken: nothing is resized,
padded or recoloured in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genkernel.errors import InputError

if TYPE_CHECKING:
    import torch

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights Pillow uses


def to_unit_range(array: torch.Tensor, limits: tuple[float, float] | None = None) -> tuple[torch.Tensor, list[str]]:
    """Images ``[n, C, H, W]``, float32 in ``[0, 1]``, from any usual layout and range.

    Args:
        array: ``[n, H, W]`` (grey), ``[n, C, H, W]`` or ``[n, H, W, C]``; integers in 0…255,
            or floats in ``[0, 1]``, ``[-1, 1]`` or 0…255.
        limits: the smallest and largest value of the stack that ``array`` was taken from, so
            that a subset is read like the whole; by default those of ``array``.

    Raises:
        InputError: NaN, infinite or complex pixels, or values in no known range.
    """
    import torch

    steps: list[str] = []
    if array.dim() == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3) and array.shape[-1] in (1, 3):
        array = array.permute(0, 3, 1, 2)
        steps.append("channels moved first")
    if array.dtype is torch.bool:
        return array.float(), steps
    if array.is_complex():
        raise InputError("images are real numbers, these pixels are complex")
    low, high = limits or value_limits(array)
    if not array.is_floating_point():
        if low < 0 or high > 255:
            raise InputError(f"integer images must lie in 0…255, these run from {low:g} to {high:g}")
        return array.float() / 255, steps
    array = array.float()
    if not torch.isfinite(array).all():
        raise InputError("the images hold NaN or infinite pixels")
    if low >= 0 and high <= 1:
        return array, steps
    if low >= -1 and high <= 1:
        return (array + 1) / 2, [*steps, "[-1, 1] read as [0, 1]"]
    if low >= 0 and high <= 255:
        return array / 255, [*steps, "0…255 read as [0, 1]"]
    raise InputError(f"pixel values run from {low:.3g} to {high:.3g}: give images in [0, 1], [-1, 1] or 0…255")


def value_limits(array: torch.Tensor) -> tuple[float, float]:
    """Smallest and largest value of a real tensor; ``(0, 1)`` for an empty one."""
    import torch

    if not array.numel():
        return 0.0, 1.0
    if not array.is_floating_point() and array.dtype is not torch.uint8:
        array = array.long()  # the unsigned types beyond uint8 have no min and max
    return float(array.min()), float(array.max())


def fit(
    images: torch.Tensor, size: int | tuple[int, int] | None, channels: int | None
) -> tuple[torch.Tensor, list[str]]:
    """Convert channels, pad to a square, resize: images ``[n, C, H, W]`` as asked.

    Colour becomes luma, grey is repeated to three channels, a picture that is not square is
    padded with its corner pixel where a square is asked, and resizing is antialiased.

    Raises:
        InputError: no agreed way from the channels there are to those asked.
    """
    import torch
    import torch.nn.functional as F

    steps: list[str] = []
    have = images.shape[1]
    if channels is not None and have != channels:
        if have == 3 and channels == 1:
            images = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
            steps.append("colour to luma")
        elif have == 1 and channels == 3:
            images = images.expand(-1, channels, -1, -1).contiguous()
            steps.append("grey repeated to 3 channels")
        else:
            raise InputError(
                f"the images have {have} channels where {channels} are wanted, and there is no "
                "agreed way to turn one into the other"
            )
    if size is not None:
        want = (size, size) if isinstance(size, int) else tuple(size)
        h, w = images.shape[-2:]
        if want[0] == want[1] and h != w:
            side = max(h, w)
            canvas = images[..., :1, :1].expand(-1, -1, side, side).clone()
            top, left = (side - h) // 2, (side - w) // 2
            canvas[..., top : top + h, left : left + w] = images
            images = canvas
            steps.append(f"{h}×{w} padded to {side}×{side} with the corner pixel")
        if tuple(images.shape[-2:]) != want:
            h, w = images.shape[-2:]
            chunks = [
                F.interpolate(part, want, mode="bilinear", antialias=True, align_corners=False)
                for part in images.split(4096)
            ]
            images = torch.cat(chunks).clamp(0, 1)
            steps.append(f"resized {h}×{w} → {want[0]}×{want[1]}, antialiased bilinear")
    return images, steps
