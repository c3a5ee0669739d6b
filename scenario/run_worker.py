"""shell: a process that performs runs: requests as lines of JSON in, answers as lines of JSON out.

Only JSON crosses the pipe, so nothing that arrives can run code. Interrupts of the terminal go to
the process that asks, which ends its workers; a worker whose standard input ends does so too.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import TextIO

from scenario.run_one import perform
from scenario.runs import request_from_json, to_json


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer every line with `{"result": …, "peak_kib": …}`, in order."""
    for line in requests:
        result = perform(request_from_json(line))
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answers.write(f'{{"peak_kib":{json.dumps(peak_kib)},"result":{to_json(result)}}}\n')
        answers.flush()


def main() -> None:
    """The process: what a run prints by accident goes to standard error, never among answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
