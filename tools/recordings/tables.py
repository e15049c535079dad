"""A recorded table: a row is printed and written as soon as it is found."""

import csv

from llama_edu.data.dialogues_tokenizer import FOLDER


def record(name, rows, *, folder=FOLDER):
    """Write rows, dicts with the same names, to NAME.csv in a folder, or beside the models of the
    talks; numbers with a fraction have three decimals."""
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        for i, row in enumerate(rows):
            if i == 0:
                table.writerow(row)
            found = [f"{value:.3f}" if isinstance(value, float) else value
                     for value in row.values()]
            table.writerow(found)
            file.flush()
            print(*found, flush=True)
