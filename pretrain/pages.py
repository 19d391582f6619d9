"""HTML pages that open from disk: pictures and charts inside, no script, nothing from a network."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1080px; margin: 1.5em auto; padding: 0 1em; color: #1a1a1a; background: #fff; }
h1 { font-size: 1.5em; } h2 { margin-top: 1.8em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: .6em 0; } td, th { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; white-space: nowrap; } caption { text-align: left; color: #555; padding-bottom: .3em; }
.wide { overflow-x: auto; } .rehearsal { background: #fff3cd; border-left: 5px solid #e69f00; padding: .6em 1em; }
.charts { display: flex; flex-wrap: wrap; gap: 1em; } .charts svg { width: 460px; max-width: 100%; font: 11px sans-serif; }
"""
"""What every page looks like; a page adds its own rules."""


class Html(str):
    """Text that is HTML already: `table` puts it in as it is."""

    __slots__ = ()


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """Return a whole page from its title (plain text) and its parts (HTML)."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; every text is escaped, `Html` is not."""
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    top = "".join(f"<th>{_cell(name)}</th>" for name in head)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(pixels: np.ndarray, side: int, quality: int = 85) -> str:
    """(h, w, 3) uint8 pixels as a JPEG of at most `side` px in a data URI."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, "JPEG", quality=quality)
    return data_uri(buffer.getvalue())


def data_uri(jpeg: bytes) -> str:
    """The bytes of a JPEG file as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _cell(text: str) -> str:
    return text if isinstance(text, Html) else escape(text)
