"""Pictures: a folder a group, or encoded in a table. Brought to one size once, then kept as numbers."""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mlvae.data.sources import cache
from mlvae.data.sources.files import Table, refuse_homeless
from mlvae.data.sources.raw import Asked, Raw
from mlvae.errors import DataError, nearest
from mlvae.errors import row as named
from mlvae.schema import Schema
from mlvae.untrusted import reading

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

MODES = ("L", "RGB")

LOOKED_AT = 200
"""Pictures, evenly spaced, that the common size and mode are taken from."""

BLOCK = 256
"""Pictures decoded at a time."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""What is decoded, whatever a file is called: some of the other formats start programs or know how to be huge."""

PIXELS = 80_000_000
"""Of a picture; a larger one is refused before it is decoded."""


def folder(path: Path, asked: Asked) -> Raw:
    """One folder a group: its name is the label; folders above it are columns of their own.

    The label of a nested group has its path, "france/ann": two folders of one name are two groups.
    """
    files = found(path)
    size, mode = common_format(files, asked)
    converted = _schema(size, mode, asked).image_converted
    about = {"size": size, "mode": mode, "bad": asked.on_bad_file, "converted": converted}
    kept = cache.place(asked.cache, path, "images", about, files)
    if not kept.exists():
        skipped: list[str] = []
        blocks = (block for block, _ in _decoded(((str(file), file) for file in files), size, mode, asked, skipped))
        cache.write(kept, _shape(size, mode), np.uint8, blocks, skipped)
    nbytes = kept.stat().st_size
    x, skipped = cache.load(kept, asked.keep(nbytes))
    gone = set(skipped)
    good = [file for file in files if str(file) not in gone]
    return Raw(
        x,
        columns(path, good, asked.folders),
        path.name,
        _schema(size, mode, asked),
        skipped=tuple(skipped),
    )


def some(path: Path, files: Sequence[Path], size: tuple[int, int], mode: str, asked: Asked) -> Raw | None:
    """Some pictures of such a folder, decoded and kept nowhere; None where all are bad and passed over."""
    skipped: list[str] = []
    blocks = [block for block, _ in _decoded(((str(file), file) for file in files), size, mode, asked, skipped)]
    if not blocks:
        return None
    good = [file for file in files if str(file) not in skipped]
    labels = columns(path, good, asked.folders)
    return Raw(np.concatenate(blocks), labels, path.name, _schema(size, mode, asked), skipped=tuple(skipped))


def from_bytes(table: Table, column: str, asked: Asked) -> tuple[Raw, np.ndarray[Any, Any]]:
    """A column of encoded pictures, and which rows they are of: (M,)."""

    def encoded() -> Iterator[tuple[str, Any]]:
        row = 0
        for batch in table.batches([column]):
            for value in batch.column(column).to_pylist():
                held = value and value.get("bytes")
                yield named(row), io.BytesIO(held) if held else _not_there(table, column, row)
                row += 1

    first = list(islice(encoded(), LOOKED_AT))
    size, mode = common_format(first, asked, lambda pair: pair[1])
    schema, shape = _schema(size, mode, asked), _shape(size, mode)
    gone: list[int] = []

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        good = np.zeros(table.rows, bool)
        for block, rows in _decoded(encoded(), size, mode, asked, []):
            good[rows] = True
            yield block
        gone.extend(np.flatnonzero(~good).tolist())

    keep = asked.keep(table.rows * math.prod(shape))
    if table.files:
        about = {
            "pictures": column, "size": size, "mode": mode, "bad": asked.on_bad_file,
            "converted": schema.image_converted,
        }  # fmt: skip
        path = cache.place(asked.cache, table.files[0].parent, table.name, about, table.files)
        if not path.exists():
            cache.write(path, shape, np.uint8, blocks(), gone)
        x, gone = cache.load(path, keep)
    else:
        if not keep:
            refuse_homeless(table)
        x = np.empty((table.rows, *shape), np.uint8)
        start = 0
        for block in blocks():
            x[start : start + len(block)] = block
            start += len(block)
        x = x[:start]
    skipped = (*table.skipped, *map(named, gone))
    return Raw(x, {}, table.name, schema, skipped=skipped), np.delete(np.arange(table.rows), gone)


def _not_there(table: Table, column: str, row: int) -> DataError:
    return DataError(
        f"Expected an encoded picture in column {column!r} of {table.name}; {named(row)} has none. Embed them first."
    )


def holds_images(path: Path) -> bool:
    """Whether there is a picture in the folder or below it."""
    return next(_walk(path), None) is not None


def _walk(path: Path) -> Iterator[Path]:
    """Pictures below a folder, in order; hidden folders are passed over."""
    for root, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(root) / name


def found(path: Path) -> list[Path]:
    """The pictures of a folder of groups, in order.

    Raises:
        DataError: there is none, or one is in no group's folder.
    """
    files = list(_walk(path))
    if not files:
        raise DataError(f"Expected pictures ({', '.join(ENDINGS)}) in folders below {path}; found none.")
    if odd := next((file for file in files if not file.is_file()), None):
        raise DataError(f"Expected pictures in files; {odd} is no file that can be read. Remove it.")
    loose = [file for file in files if file.parent == path]
    if loose:
        raise DataError(
            f"Expected every picture in a folder that names its group; {loose[0]} is in {path.name} itself."
            f" Move it to {path.name}/GROUP/{loose[0].name}."
        )
    return files


def columns(path: Path, files: Sequence[Path], names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The names of the folders that each picture is in, and its own.

    Raises:
        DataError: pictures lie differently deep, or there are more or fewer names than levels.
    """
    parts = [file.relative_to(path).parts[:-1] for file in files]
    depths = Counter(map(len, parts))
    if len(depths) > 1:
        odd = next(file for file, part in zip(files, parts, strict=True) if len(part) != depths.most_common(1)[0][0])
        raise DataError(f"Expected all pictures equally many folders deep in {path}; {odd} is not. Move it.")
    depth = next(iter(depths))
    if names and len(names) != depth:
        raise DataError(f"Expected a name for each of the {depth} levels of folders in {path}; got {tuple(names)}.")
    names = names or (*(f"folder{level}" for level in range(1, depth)), "group")
    columns = {name: np.array(["/".join(part[: level + 1]) for part in parts]) for level, name in enumerate(names)}
    return {**columns, "file": np.array([file.name for file in files])}


def common_format(
    pictures: Sequence[Any], asked: Asked, opened: Callable[[Any], Any] = lambda file: file.open("rb")
) -> tuple[tuple[int, int], str]:
    """The size (height, width) and the mode: the model's, the user's, or what all pictures looked at have."""
    from PIL import Image

    trained = asked.like or Schema()
    size, mode = asked.size or trained.image_size, asked.mode or trained.image_mode
    if mode is not None and mode not in MODES:
        raise DataError(
            f"Expected the mode of pictures to be 'L' (grey) or 'RGB'; got {mode!r}. {nearest(mode, MODES)}"
        )
    if size and mode:
        return size, mode
    step = max(1, len(pictures) // LOOKED_AT)
    sizes: Counter[tuple[int, int]] = Counter()
    modes = set()
    for picture in pictures[::step]:
        try:
            with opened(picture) as stream, Image.open(stream, formats=FORMATS) as image:
                sizes[image.height, image.width] += 1
                modes.add(image.mode)
        except Exception:  # of any kind; it is named when it is decoded
            continue
    if not sizes:
        raise DataError("Expected pictures; none of those looked at can be read.")
    if not size and len(sizes) > 1:
        some = ", ".join(f"{h} x {w}" for (h, w), _ in sizes.most_common(3))
        raise DataError(f"Expected pictures of one size; found {some}. Name one to bring all to: size=64 (--size 64).")
    return size or next(iter(sizes)), mode or ("L" if modes <= {"L", "1"} else "RGB")


def _schema(size: tuple[int, int], mode: str, asked: Asked) -> Schema:
    agreed = asked.mode is not None or (asked.like is not None and asked.like.image_converted)
    return Schema(image_size=size, image_mode=mode, image_converted=agreed)


def _shape(size: tuple[int, int], mode: str) -> tuple[int, ...]:
    return size if mode == "L" else (3, *size)


def _decoded(
    pictures: Iterable[tuple[str, Any]], size: tuple[int, int], mode: str, asked: Asked, skipped: list[str]
) -> Iterator[tuple[np.ndarray[Any, Any], list[int]]]:
    """Blocks of pictures as numbers (n, *shape) uint8, with their places; bad ones by the policy.

    A picture is its name with what `decode` takes, or with what is wrong where there is none.
    """

    convert = _schema(size, mode, asked).image_converted

    def one(picture: tuple[str, Any]) -> Any:
        if isinstance(picture[1], DataError):
            return picture[1]
        try:
            return decode(*picture, size, mode, convert=convert)
        except DataError as bad:
            return bad

    start = 0
    iterator = iter(pictures)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        while part := list(islice(iterator, BLOCK)):
            arrays, places = [], []
            for place, ((name, _), result) in enumerate(zip(part, pool.map(one, part), strict=True), start):
                if isinstance(result, DataError):
                    asked.skip(result, name, skipped)
                else:
                    arrays.append(result)
                    places.append(place)
            start += len(part)
            if arrays:
                yield np.stack(arrays), places


def decode(
    name: str, source: Any, size: tuple[int, int], mode: str, *, convert: bool,
    formats: tuple[str, ...] = FORMATS, most: int | None = None,
    advice: str = "Was the copy cut off? Restore or remove it.",
) -> np.ndarray[Any, Any]:  # fmt: skip
    """One picture: turned upright, cut to the shape and brought to the size, (H, W) or (3, H, W) uint8.

    Args:
        name: of the file, for messages.
        source: its file, or a stream of its bytes, which is closed.
        size: (H, W).
        mode: "L" or "RGB".
        convert: the user named the mode, so transparency, 16 bits and CMYK are brought to it: transparent is white.
        formats: that are read.
        most: pixels, None takes `PIXELS`; a larger one is refused before one of them is decoded.
        advice: for who sent it.

    Raises:
        DataError: the picture cannot be read, or would lose something that the user did not agree to.
    """
    from PIL import Image, ImageOps

    with (
        reading("picture", name, advice=advice),
        source.open("rb") if isinstance(source, Path) else source as stream,
        Image.open(stream, formats=formats) as image,
    ):
        if image.width * image.height > (most := most or PIXELS):
            raise DataError(
                f"Expected a picture of at most {most:,} pixels; {name} has {image.width} x {image.height}."
                " Shrink or remove it."
            )
        upright = ImageOps.exif_transpose(image)
        _refuse_loss(name, image, mode, convert)
        if image.mode.startswith("I") or image.mode == "F":
            upright = Image.fromarray((np.asarray(upright, np.float64) / 257).clip(0, 255).round().astype(np.uint8))
        if "A" in image.mode or "transparency" in image.info:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        upright = upright.convert("RGB" if mode == "RGB" else "L")
        fitted = ImageOps.fit(upright, size[::-1], Image.Resampling.LANCZOS) if upright.size != size[::-1] else upright
        array = np.asarray(fitted)
    return array if mode == "L" else array.transpose(2, 0, 1)


def _refuse_loss(name: str, image: Any, mode: str, convert: bool) -> None:
    if convert:
        return
    what = None
    if image.mode == "CMYK":
        what = "is CMYK"
    elif "A" in image.mode or "transparency" in image.info:
        what = "has an alpha channel"
    elif image.mode.startswith("I") or image.mode == "F":
        what = "has more than 8 bits a pixel"
    elif mode == "L" and image.mode not in ("L", "1"):
        what = "has colours, unlike those looked at first"
    if what:
        raise DataError(
            f"Expected 8-bit grey or RGB pictures; {name} {what}. Convert it, or train with what to bring"
            " all to: mode='RGB' or mode='L' (--mode RGB; transparent becomes white)."
        )
