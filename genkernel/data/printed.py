"""Printed characters as images: digits and letters of the DejaVu fonts that come with matplotlib.

White on black, as handwritten digits of MNIST are; size, rotation and place are drawn for every image from the seed.
Nothing is downloaded, and no font of the system is used: the same call gives the same images everywhere (up to what
versions of FreeType do differently).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genkernel.data.images import ImageSet
from genkernel.errors import InputError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

DIGITS = "0123456789"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz"  # without I, O, l and o, which are printed as 1 and 0
FONTS = tuple(
    f"DejaVu{family}{face}"
    for family, faces in (
        ("Sans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("SansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Serif", ("", "-Bold", "-Italic", "-BoldItalic")),
    )
    for face in faces
)
_FINER = 4  # characters are drawn this many times as large and averaged
_HALO = 1.5  # side of the sheet that a turned character has to fit on, relative to the image


def printed_characters(
    characters: str = DIGITS,
    *,
    count: int = 10,
    size: int = 28,
    height: tuple[float, float] = (0.5, 0.7),
    rotation: float = 15.0,
    shift: float = 2.0,
    seed: int = 0,
) -> ImageSet:
    """Printed characters, each in fonts drawn at random.

    Args:
        characters: those to print, each once.
        count: images of every character.
        size: height and width of the images in pixels.
        height: smallest and largest size of the character's larger side, relative to the image.
        rotation: largest angle either way, in degrees.
        shift: largest move from the centre either way, in pixels (at least so that the character stays inside).
        seed: of everything that is drawn.

    Returns:
        ImageSet: images ``[count · len(characters), 1, size, size]`` in [0, 1], characters in turn; labels are places
        in ``characters``.

    Raises:
        InputError: no characters, one twice or without ink, or sizes, angles and counts that make no sense.
    """
    import torch

    if not characters or len(set(characters)) != len(characters):
        raise InputError(f"characters are some different ones, not {characters!r}")
    if count < 1 or size < 8:
        raise InputError(f"printed images are at least one of each and 8 pixels wide, not {count} of {size}")
    low, high = height
    if not (0 < low <= high <= 1) or not 0 <= rotation <= 180 or not 0 <= shift < size / 2:
        raise InputError(
            "height is relative, 0 < smallest ≤ largest ≤ 1, rotation 0 to 180 degrees and shift less than half of the "
            f"image, not {height}, {rotation} and {shift}"
        )
    draw = np.random.default_rng(seed)
    fonts = [_font(name, _FINER * size) for name in FONTS]
    images = [
        _printed(
            character,
            fonts[draw.integers(len(fonts))],
            size,
            draw.uniform(low, high),
            draw.uniform(-rotation, rotation),
            draw.uniform(-shift, shift, 2),
        )
        for _ in range(count)
        for character in characters
    ]
    labels = torch.arange(len(characters)).repeat(count)
    steps = [f"size {low:g} to {high:g} of the image, turned by up to {rotation:g}°, moved by up to {shift:g} pixels"]
    return ImageSet(torch.from_numpy(np.stack(images)[:, None]), labels, f"printed {characters}", steps)


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def _printed(
    character: str, font: ImageFont.FreeTypeFont, size: int, height: float, angle: float, move: np.ndarray
) -> np.ndarray:
    """One image ``[size, size]`` in [0, 1]."""
    from PIL import Image, ImageDraw

    side = int(_FINER * size * 3)
    sheet = Image.new("L", (side, side))
    ImageDraw.Draw(sheet).text((side / 2, side / 2), character, fill=255, font=font, anchor="mm")
    box = sheet.getbbox()
    if box is None or not character.strip():
        raise InputError(f"{character!r} is printed without ink")
    glyph = sheet.crop(box)
    factor = height * _FINER * size / max(glyph.size)
    glyph = glyph.resize(
        (max(1, round(glyph.width * factor)), max(1, round(glyph.height * factor))), Image.Resampling.LANCZOS
    )
    page = Image.new("L", (int(_HALO * _FINER * size),) * 2)
    page.paste(glyph, ((page.width - glyph.width) // 2, (page.height - glyph.height) // 2))
    turned = page.rotate(angle, Image.Resampling.BICUBIC)
    turned = turned.crop(_ink(turned))
    room = [max(0.0, (_FINER * size - length) / 2) for length in turned.size]
    offset = [
        (_FINER * size - length) / 2 + float(np.clip(_FINER * step, -free, free))
        for length, free, step in zip(turned.size, room, move, strict=True)
    ]
    whole = Image.new("L", (_FINER * size,) * 2)
    whole.paste(turned, (round(offset[0]), round(offset[1])))
    pixels = np.asarray(whole, dtype=np.float32) / 255
    return pixels.reshape(size, _FINER, size, _FINER).mean((1, 3))


def _ink(page: Image.Image) -> tuple[int, int, int, int]:
    box = page.getbbox()
    assert box is not None  # a character with ink keeps it when turned
    return box
