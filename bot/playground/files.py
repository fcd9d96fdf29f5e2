"""Files of messages: read from a request, measured, and served so that nothing in them runs on the page."""

import mimetypes
import re
import struct
from dataclasses import dataclass

from bot.playground.world import Attachment

SHOWN_INLINE = {"image/png", "image/jpeg", "image/gif", "image/webp"}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file part of a request: `files[3]` has index 3."""

    index: str
    filename: str
    body: bytes


def make_attachment(attachment_id: int, upload: Upload, filename: str | None, description: str | None) -> Attachment:
    """The attachment an upload becomes; its name keeps only what Discord's keeps."""
    name = re.sub(r"[^\w.\-]+", "_", filename or upload.filename).strip("._") or "unknown"
    guessed = _kind_of(upload.body) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Attachment(attachment_id, name[-200:], guessed, upload.body, description, picture_size(upload.body))


def _kind_of(body: bytes) -> str | None:
    """The picture type by its first bytes; names lie."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if body.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if body[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "image/webp"
    return None


def picture_size(body: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, GIF or JPEG; None for anything else."""
    kind = _kind_of(body)
    if kind == "image/png" and len(body) >= 24:
        width, height = struct.unpack(">II", body[16:24])
        return width, height
    if kind == "image/gif" and len(body) >= 10:
        width, height = struct.unpack("<HH", body[6:10])
        return width, height
    return _jpeg_size(body) if kind == "image/jpeg" else None


def _jpeg_size(body: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(body) and body[at] == 0xFF:
        marker = body[at + 1]
        (length,) = struct.unpack(">H", body[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", body[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def serving_headers(attachment: Attachment) -> dict[str, str]:
    """Pictures are shown; everything else is only ever downloaded."""
    inline = attachment.content_type in SHOWN_INLINE
    return {
        "Content-Type": attachment.content_type if inline else "application/octet-stream",
        "Content-Disposition": "inline" if inline else f'attachment; filename="{attachment.filename}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, max-age=3600",
    }
