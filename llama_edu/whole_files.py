"""Files that are either the old one or the new one, whatever happens while they are written."""

import os
from pathlib import Path

PART = ".part"                  # ends the name of a file that is being written


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that a reader, a kill or a power cut never meets half of it.

    The bytes go to a file beside it, reach the disk, and then take the name in one move. Folders
    that are missing are made. Raises ValueError where the system refuses.
    """
    part = file.with_name(file.name + PART)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(part, file)
        _sync_folder(file.parent)
    except OSError as refused:
        raise ValueError(f"{file} cannot be written ({refused.strerror}); a folder that you may "
                         "write in, with room on its disk, is needed.") from None


def _sync_folder(folder: Path) -> None:
    """Bring the folder's list of names to the disk, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
