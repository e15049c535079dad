"""Files and folders that are either whole or not there, whatever happens while they are written;
and files that are of this folder and of no other."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:             # not on Windows
    fcntl = None

PART = ".llama_edu.part"        # ends the name of what is being written; nobody else has such


def inside(folder: Path, name: str) -> Path:
    """A file of this folder, which may be missing. A link may lead out of the folder only to
    where the cache of the hub keeps the files of this model. Raises ValueError for any other."""
    file, home = folder / name, folder.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if file.exists() and not any(file.resolve().is_relative_to(place) for place in homes):
        raise ValueError(f"{file} is a link to {file.resolve()}, outside the folder; the file "
                         "itself is needed. Copy it there if you trust it.")
    return file


def read_whole(file: Path, *, most: int) -> bytes:
    """All bytes of a file. Raises ValueError where it cannot be read, or has more than `most`."""
    if len(content := first_bytes(file, most + 1)) > most:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes; no such file of a Llama has "
                         f"more than {most:,}. Is it the right one?")
    return content


def first_bytes(file: Path, n: int) -> bytes:
    """The first bytes of a file, `n` at most. Raises ValueError where it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(min(n, os.fstat(opened.fileno()).st_size))
    except OSError as unreadable:
        raise ValueError(f"{file} cannot be opened ({unreadable.strerror}); a file that you may "
                         "read is needed. Check its rights.") from None


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that a reader, a kill or a power cut never meets half of it.

    Folders that are missing are made. Raises ValueError where the system refuses.
    """
    with whole_file(file) as part:
        part.write_bytes(content)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A name beside the file to write under, in pieces.

    What lies there in the end reaches the disk, and then takes the file's name in one move. Raises
    ValueError where the system refuses, or another run is writing the same.
    """
    part = file.with_name(file.name + PART)
    with refusals(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        with _alone(part, file):
            try:
                yield part
                with part.open("rb+") as written:
                    os.fsync(written.fileno())
                os.replace(part, file)
                _sync_folder(file.parent)
            finally:
                part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which takes its name when all is done.

    What a killed run left behind is removed first. Raises ValueError where the system refuses, or
    another run is writing the same.
    """
    part = folder.with_name(folder.name + PART)
    with refusals(folder):
        part.mkdir(parents=True, exist_ok=True)
        with _alone(part, folder):
            for left in part.iterdir():
                left.unlink()
            try:
                yield part
                part.rename(folder)
                _sync_folder(folder.parent)
            finally:
                shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _alone(part: Path, place: Path) -> Iterator[None]:
    """Nobody else writes this part meanwhile. The lock ends with the run that has it, killed or
    not; where a system has none, two runs must not be started at once."""
    if fcntl is None:
        yield
        return
    opened = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"{place} is being written by another run; one at a time is needed. Wait "
                         "for it, or choose another name.") from None
    finally:
        os.close(opened)


@contextmanager
def refusals(place: Path) -> Iterator[None]:
    """Say in a sentence what the system refused: raises ValueError for an OSError inside."""
    try:
        yield
    except OSError as refused:
        raise ValueError(f"{place} cannot be written ({refused.strerror or refused}); a folder "
                         "that you may write in, with room on its disk, is needed. Choose "
                         "another.") from None


def _sync_folder(folder: Path) -> None:
    """Bring the folder's list of names to the disk, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
