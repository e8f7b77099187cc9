"""What a person reads on a terminal: nothing of it is a command to the terminal."""

import json
import sys
from collections.abc import Sequence

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mirror.control.units import printable

Cell = str | Text


def say(line: Cell = "") -> None:
    """A line; it is never broken, whatever is in it."""
    _console().print(_text(line), soft_wrap=True)


def say_json(document: msgspec.Struct) -> None:
    """As the API has it."""
    sys.stdout.write(json_text(msgspec.json.format(msgspec.json.encode(document), indent=2)) + "\n")


def json_text(encoded: bytes) -> str:
    """JSON that says the same, with signs that are none escaped: JSON itself leaves some."""
    text = encoded.decode()
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text
    )


def say_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: str = "") -> None:
    """A table, as wide as it is; the heads in `right` ("size|layer") are of numbers.

    On a terminal that is too narrow a line goes on in the next: nothing is cut, for names are
    copied from here.
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [
        max([cell_len(head), *(row[at].cell_len for row in texts)]) for at, head in enumerate(heads)
    ]
    numbers = right.split("|")
    console = _console()
    for row in ([Text(head, "bold") for head in heads], *texts):
        line = Text()
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - cell.cell_len)
            is_last = at == len(heads) - 1
            line.append_text(
                Text.assemble(gap, cell) if heads[at] in numbers else
                cell if is_last else Text.assemble(cell, gap)
            )  # fmt: skip
            line.append("" if is_last else "  ")
        console.print(line, soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _text(cell: Cell) -> Text:
    if isinstance(cell, str):
        return Text(printable(cell))
    return cell
