"""A process that kills itself at a named step: as sitecustomize in units, by a line before the program in pipe(8).

The plan is a JSON file: `steps`, each a file, a function's qualified name and before or after; `least` and `most`,
between which a process counts how often its step is reached before it dies there; `chance`, how many of the processes
die at all. Each takes the next step in turn, a process that is forked later its own. `drawn` and `hits` are files
beside it that all may write. Functions are seen by a trace of calls, which leaves the code as it is and makes it
slow; without FAULT_STEPS nothing happens here.
"""

import json
import os
import random
import signal
import sys
import threading


def arm(path):
    """Have this process, and what it forks, die as the plan says."""
    with open(path) as file:
        plan = json.load(file)
    steps = [tuple(step) for step in plan["steps"]]
    named = {(file, function) for file, function, _ in steps}
    known, drawn = {}, {}

    def draw():
        """Take the next step in turn, once for each process."""
        pid = os.getpid()
        if pid not in drawn:
            drawn.clear()
            fd = os.open(plan["drawn"], os.O_WRONLY | os.O_APPEND)
            os.write(fd, b".")
            number = os.lseek(fd, 0, os.SEEK_CUR)
            os.close(fd)
            chosen = random.Random(f"{plan['seed']} {number}")
            dies = chosen.random() < plan["chance"]
            drawn[pid] = [steps[number % len(steps)] if dies else None, chosen.randint(plan["least"], plan["most"])]
        return drawn[pid]

    def reached(mine):
        mine[1] -= 1
        if mine[1] == 0:
            fd = os.open(plan["hits"], os.O_WRONLY | os.O_APPEND)
            os.write(fd, (" ".join(mine[0]) + "\n").encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def leave(frame, event, _):
        if event == "return":
            reached(drawn[os.getpid()])
        return leave

    def call(frame, event, _):
        code = frame.f_code
        if code not in known:
            name = (os.path.basename(code.co_filename), code.co_qualname)
            known[code] = name if name in named else None
        name = known[code]
        if name is None:
            return None
        mine = draw()
        if mine[0] is None or mine[0][:2] != name:
            return None
        if mine[0][2] == "before":
            reached(mine)
            return None
        frame.f_trace_lines = False
        return leave

    threading.settrace(call)
    sys.settrace(call)


if "FAULT_STEPS" in os.environ:
    arm(os.environ["FAULT_STEPS"])
