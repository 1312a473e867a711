"""The embedded data set: ten characters that are easy to confuse, drawn from the fonts that matplotlib carries.

`python -m course_lib.data.glyphs` draws the set again and compares it with the shipped file;
`python -m course_lib.data.glyphs --write` replaces the shipped file and its checksum.
"""

import argparse
import functools
import io
import platform
import zipfile
import zlib
from pathlib import Path

import numpy as np

from course_lib import files

__all__ = ["CLASSES", "COUNTS", "draw", "read", "save"]

CLASSES = ("B", "D", "G", "O", "Q", "R", "S", "E", "5", "8")
_SIZE = 16  # pixels a side
COUNTS = {"train": 10_000, "validation": 2_000, "test": 4_000}
_SEED = 20_240_501
_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "STIXGeneralBolIta.ttf",
    "cmr10.ttf",
    "cmb10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
)

_CANVAS = 64  # characters are drawn and bent at four times the final size, then averaged down
_FONT_SIZE = 56


def _path() -> Path:
    """Find the shipped file."""
    return files.root() / "data" / "glyphs.npz"


def draw(seed: int = _SEED, counts: dict[str, int] | None = None) -> dict[str, np.ndarray]:
    """Draw the data set.

    Every image is one character in one font, rotated, sheared, scaled and shifted, crossed by up to two stray
    strokes, with a contrast of its own, inverted half of the time, and covered with Gaussian noise.

    Args:
        seed: of numpy's default_rng, by default that of the shipped set; each split has a stream of its own, so that
            no image depends on another split.
        counts: {split: number of images}; COUNTS unless given.

    Returns:
        `<split>_images` uint8 [N, 1, 16, 16] and `<split>_labels` int64 [N] for each split. Classes are balanced
        to within one image.

    Example:
        >>> arrays = draw(counts={"test": 10})
        >>> arrays["test_images"].shape, sorted(arrays["test_labels"].tolist())
        ((10, 1, 16, 16), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    arrays = {}
    for number, (split, count) in enumerate((counts or COUNTS).items()):
        rng = np.random.default_rng([seed, number])
        labels = rng.permutation(np.arange(count) % len(CLASSES))
        images = np.stack([_draw_one(CLASSES[label], rng) for label in labels])
        arrays[f"{split}_images"] = images[:, None]
        arrays[f"{split}_labels"] = labels.astype(np.int64)
    return arrays


def save(arrays: dict[str, np.ndarray], destination: Path) -> None:
    """Write the arrays and the versions they are drawn with as a compressed .npz file, atomically.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"test_labels": np.array([3])}, Path(folder, "glyphs.npz"))
        ...     read(Path(folder, "glyphs.npz"))[0]
        {'test_labels': array([3])}
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, drawn_with=np.array(_versions()))
    files.write_bytes(destination, buffer.getvalue())


def read(source: Path) -> tuple[dict[str, np.ndarray], str]:
    """Read a file that `save` wrote: the arrays, and the versions they were drawn with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or corrupted; its message does not name the remedy, the caller's does.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"test_labels": np.array([3])}, Path(folder, "glyphs.npz"))
        ...     read(Path(folder, "glyphs.npz"))[1][:6]
        'Pillow'
    """
    try:
        with np.load(source, allow_pickle=False) as content:
            arrays = dict(content)
        return arrays, str(arrays.pop("drawn_with"))
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise ValueError(f"{source} is no whole glyphs file: {error}") from error


def _differences(arrays: dict[str, np.ndarray], shipped: dict[str, np.ndarray]) -> dict[str, int]:
    """Count the images (or labels) that differ in each array.

    Returns:
        {array: count}, -1 for an array that one set lacks or that has another shape; {} if the two sets are identical.
    """
    found = {}
    for key in arrays.keys() | shipped.keys():
        mine, theirs = arrays.get(key), shipped.get(key)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            found[key] = -1
        elif not np.array_equal(mine, theirs):
            found[key] = int((mine != theirs).reshape(len(mine), -1).any(axis=1).sum())
    return found


def _versions() -> str:
    """Name what the drawing depends on: Pillow, FreeType, matplotlib (its fonts), NumPy (its streams), processor."""
    import matplotlib
    import PIL
    from PIL import features

    return (
        f"Pillow {PIL.__version__}, FreeType {features.version('freetype2')}, matplotlib {matplotlib.__version__}, "
        f"NumPy {np.__version__}, {platform.machine()}"
    )


@functools.cache
def _character(character: str, font_name: str):
    """Draw one upright character, white on black, centred by its own bounding box; a PIL image."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(folder / font_name), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (_CANVAS, _CANVAS), 0)
    corner = ((_CANVAS - (right - left)) / 2 - left, (_CANVAS - (bottom - top)) / 2 - top)
    ImageDraw.Draw(image).text(corner, character, fill=255, font=font)
    return image


def _draw_one(character: str, rng: np.random.Generator) -> np.ndarray:
    """Draw one uint8 image [16, 16]."""
    from PIL import Image, ImageDraw

    glyph = _character(character, _FONTS[rng.integers(len(_FONTS))])
    angle, shear = np.deg2rad(rng.uniform(-22, 22)), rng.uniform(-0.3, 0.3)
    scale_x, scale_y = rng.uniform(0.8, 1.28, size=2)  # PIL maps output to input: above 1 shrinks
    shift = rng.uniform(-6, 6, size=2)  # in canvas pixels: 1.5 final ones
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = (
        np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) @ np.diag([scale_x, scale_y])
    )
    centre = np.full(2, _CANVAS / 2)
    offset = centre - matrix @ (centre + shift)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    glyph = glyph.transform(
        (_CANVAS, _CANVAS), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )

    pen = ImageDraw.Draw(glyph)
    for _ in range(rng.integers(0, 3)):
        start, end = rng.uniform(0, _CANVAS, size=(2, 2))
        middle = (start + end) / 2
        half = (end - start) / np.linalg.norm(end - start) * rng.uniform(6, 20)
        pen.line(
            [*(middle - half), *(middle + half)],
            fill=int(rng.integers(120, 256)),
            width=int(rng.integers(2, 6)),
        )

    ink = (
        np.asarray(glyph, dtype=np.float64)
        .reshape(_SIZE, _CANVAS // _SIZE, _SIZE, _CANVAS // _SIZE)
        .mean(axis=(1, 3))
    )
    contrast = rng.uniform(0.4, 0.92)
    paper = rng.uniform(0, 1 - contrast)
    image = paper + contrast * ink / 255
    if rng.random() < 0.5:
        image = 1 - image
    image += rng.normal(0, rng.uniform(0.04, 0.14), size=image.shape)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _main() -> int:
    """Run the command line: compare with the shipped file, or replace it with --write. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw the glyphs data set again.")
    parser.add_argument(
        "--write", action="store_true", help="replace data/glyphs.npz and its line in SHA256SUMS"
    )
    arguments = parser.parse_args()
    if arguments.write:
        files.require_own("--write")
    arrays = draw()
    if arguments.write:
        save(arrays, _path())
        files.record_checksum(_path())
        print(f"wrote {_path().name}: {_path().stat().st_size / 1e6:.1f} MB, drawn with {_versions()}")
        return 0
    try:
        shipped, drawn_with = read(_path())
    except (OSError, ValueError) as error:
        print(
            f"nothing to compare with: {error}. Bring it back: {files.remedy('data/glyphs.npz', again='--write')}"
        )
        return 1
    found = _differences(arrays, shipped)
    if not found:
        print(f"identical to the shipped {_path().name} ({_versions()})")
        return 0
    print(
        f"differs from the shipped {_path().name} in {found}\nshipped: {drawn_with}\nhere:    {_versions()}"
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(_main())
