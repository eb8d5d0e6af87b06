"""Files named as images that once killed or stopped a run."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

from PIL import Image


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_bad_files(folder: Path) -> list[str]:
    """One file of each kind; returns their names."""
    whole = png(Image.new("L", (8, 8), 9))
    size = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + whole[24:29]
    bad = {
        "empty.png": b"",
        "text.png": b"hello",
        "cut.png": whole[: len(whole) // 2],
        "avif.png": b"\0\0\0 ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(40),
        "dds.png": b"DDS " + bytes([124, 0, 0, 0]) + bytes(120),
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        "bomb.png": whole[:12] + size + zlib.crc32(size).to_bytes(4, "big") + whole[33:],  # of 30,000 x 30,000 pixels
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere.png")
    return [*bad, "pipe.png", "link.png"]
