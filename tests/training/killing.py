"""Train in child processes that are killed with SIGKILL. Run as a script: imports cost seconds,
so one process imports, and every attempt is a fork of it.

    python killing.py RECIPE FOLDER KILLS '[["FILE", "MOMENT"], ...]'

kills at random moments, KILLS times in all, and then once while each FILE is being written. Prints
one JSON object. Every folder that is left was trained to its end; `whole` was never killed.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from llama_edu.training import recipe
from llama_edu.training import run as training_run

torch.set_num_threads(1)        # no thread is lost in a fork, and every sum has one order


def attempt(plan, dying=lambda: None):
    """Begin or go on in a child. Returns its number when it is about to train."""
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        return pid
    try:
        dying()
        run = training_run.Run(plan)
        refused = run.resume()
        assert refused == [], refused
        os.write(writing, b"!")
        for _ in run.steps():
            pass
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def was_killed(pid):
    """Wait for the child. True if a kill ended it, False if it came to its end."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the training itself failed"
    return False


def die_at(name, moment):
    """Kill this process when the file of that name is about to get its bytes, or has just."""
    move = os.replace

    def dying_move(part, file):
        if Path(file).name != name:
            return move(part, file)
        if moment == "half":
            os.truncate(part, os.path.getsize(part) // 2)
        if moment == "after":
            move(part, file)
        return os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying_move


def at_random(plan, folder, kills, whole):
    """Kill until it was done `kills` times; a run that comes to its end before makes room for
    another."""
    chance, done, parts, runs = random.Random(0), 0, 0, 0
    while done < kills:
        out = folder / f"killed-{runs}"
        killed = True
        while killed:
            pid = attempt(dataclasses.replace(plan, out=str(out)))
            if done < kills:
                time.sleep(chance.uniform(0, whole))
                os.kill(pid, signal.SIGKILL)
            killed = was_killed(pid)
            done += killed
            parts += killed and any(out.rglob("*.part"))
        runs += 1
    return {"kills": done, "runs": runs, "half_written": parts, "seconds": round(whole, 2)}


def at_a_moment(plan, folder, name, moment):
    plan = dataclasses.replace(plan, out=str(folder / "killed"))
    killed = was_killed(attempt(plan, dying=lambda: die_at(name, moment)))
    parts = [file.name for file in Path(plan.out).rglob("*.part")]
    assert not was_killed(attempt(plan))
    return {"killed": killed, "half_written": parts}


def main(path, folder, kills, moments):
    plan, folder = recipe.read(path), Path(folder)
    corpus = training_run.gather(plan)
    training_run.gather = lambda plan, **_: corpus  # this, and imports behind the optimiser
    training_run.Run(plan)                          # and behind the plot, once for all children
    training_run.plots.figure("warm", x="x", y="y")[0].savefig(folder / "warm.png")
    began = time.perf_counter()
    assert not was_killed(attempt(dataclasses.replace(plan, out=str(folder / "whole"))))
    whole = time.perf_counter() - began
    seen = {"random": at_random(plan, folder, kills, whole)}
    for number, (name, moment) in enumerate(moments):
        seen[f"{name} {moment}"] = at_a_moment(plan, folder / str(number), name, moment)
    return seen


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3], *map(json.loads, sys.argv[3:]))))
