"""Text of your own: plain text, JSONL and Parquet files, or a folder of them, as documents."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from ..tokenizer import Tokenizer
from . import packing


def batches(source: str | Path | Iterable[str], tokenizer: Tokenizer, *, length: int, size: int = 8,
            seed: int | None = None) -> Iterator[dict[str, Tensor]]:
    """Batches as `train` and `evaluate` take them, of a file, a folder or texts at hand.

        train(model, batches("notes.txt", tokenizer, length=257, seed=0), lr=..., steps=100)

    Each is `size` rows of `length` tokens, with documents packed into them. Without a seed they
    come once, in order; with one they come shuffled and never end. Raises ValueError for what
    cannot be read, and for less text than a batch needs.
    """
    texts = documents(source) if isinstance(source, str | Path) else source
    encoded = (tokenizer.encode(text, bos=tokenizer.bos_id is not None,
                                eos=tokenizer.eos_id is not None) for text in texts)
    rows = packing.pack(encoded, length=length)
    if seed is None:
        return packing.in_order(rows, size=size, length=length)
    return packing.shuffled(list(rows), size=size, length=length, seed=seed)


def documents(path: str | Path, *, field: str = "text") -> Iterator[str]:
    """Every document in a file, or in all files of a folder and of the folders inside it, by name.

    A plain text (.txt, .md) is one document; a JSONL file holds one a line, a Parquet file one a
    row, each under the name `field`. In a terminal, a bar on stderr shows how far the reading is.
    Raises ValueError for a file that is missing, empty, binary or not what its name says.
    """
    files = _files(Path(path))
    sizes = [file.stat().st_size for file in files]
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="reading", disable=None) as bar:
        for file, size in zip(files, sizes, strict=True):
            if size == 0:
                raise ValueError(f"{file} is empty; some text is needed. Take it away, or fill it.")
            shown = 0
            for text, share in READERS[file.suffix](file, field):
                bar.update(round(share * size) - shown)
                shown = round(share * size)
                yield text


def plain_text(file: Path) -> str:
    """All that is in a file, whatever its name. Raises ValueError for one that is missing, binary
    or not in UTF-8, and for one without text."""
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}; one with text is needed. Check the "
                         "path.")
    text = _decode(file.read_bytes(), file)
    if not text.strip():
        raise ValueError(f"{file} holds nothing but spaces; some text is needed. Take it away, or "
                         "fill it.")
    return text


def _files(path: Path) -> list[Path]:
    known = ", ".join(READERS)
    if path.is_file():
        if path.suffix not in READERS:
            raise ValueError(f"{path} is no kind of file that can be read; {known} are. Rename it, "
                             "or turn it into one of these.")
        return [path]
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {str(path)!r}; one with text is needed. "
                         "Check the path.")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in READERS
                   and not any(part[0] == "." for part in file.relative_to(path).parts))
    if not files:
        raise ValueError(f"the folder {path} has no file with text in it; one or more of {known} "
                         "are needed. Check the path.")
    return files


# Each reader yields a document, and which share of the file has been read by then.


def _plain(file: Path, field: str) -> Iterator[tuple[str, float]]:
    yield plain_text(file), 1.0


def _json_lines(file: Path, field: str) -> Iterator[tuple[str, float]]:
    read, size, found = 0, file.stat().st_size, False
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            read += len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(_decode(line, file))
            except json.JSONDecodeError as broken:
                raise ValueError(f"line {number} of {file} is not JSON ({broken}); an object a "
                                 "line is needed. Correct that line.") from None
            found = True
            row = row if type(row) is dict else {}
            yield _text(row.get(field), field, f"line {number} of {file}", [*row]), read / size
    if not found:
        raise ValueError(f"{file} holds nothing but empty lines; some text is needed. Take it "
                         "away, or fill it.")


def _parquet(file: Path, field: str) -> Iterator[tuple[str, float]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{file} is a Parquet file; the package pyarrow, which reads them, is "
                         "not installed. Get it with: pip install pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            names, total, done = table.schema_arrow.names, table.metadata.num_rows, 0
            if total == 0:
                raise ValueError(f"{file} has no rows; some text is needed. Take it away.")
            columns = [field] if field in names else []
            for rows in table.iter_batches(columns=columns):
                for value in rows.column(0).to_pylist() if columns else [None]:
                    done += 1
                    where = f"row {done} of {file}"
                    yield _text(value, field, where, names), done / total
    except pyarrow.ArrowException as broken:
        raise ValueError(f"{file} cannot be read as Parquet ({broken}). It is cut short or of "
                         "another kind; download it again.") from None


def _decode(content: bytes, file: Path) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        raise ValueError(f"{file} is not text in UTF-8 (its byte 0x{content[broken.start]:02X}); "
                         "such text is needed. If it is text, save it as UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"{file} is binary (it has zero bytes); text in UTF-8 is needed. Take it "
                         "away, or check the path.")
    return text


def _text(value: object, field: str, where: str, names: list[str]) -> str:
    if type(value) is not str:
        has = type(value).__name__ if field in names else ", ".join(names) or "nothing"
        raise ValueError(f"{where} has no text under {field!r}, but {has}; a string is needed. "
                         "Name the right field.")
    return value


Reader = Callable[[Path, str], Iterator[tuple[str, float]]]
READERS: dict[str, Reader] = {".txt": _plain, ".md": _plain, ".jsonl": _json_lines,
                              ".parquet": _parquet}
