"""A process that holds a queue of jobs, for tests that end it: `job_server.py HOME MODEL`."""

import sys
import time
from pathlib import Path

from qupath_bridge.jobs import JobQueue, QueueSettings

if __name__ == "__main__":
    settings = QueueSettings(Path(sys.argv[1]), device="cpu", model=sys.argv[2])
    queue = JobQueue(settings, lambda uri: Path(uri.removeprefix("file:")))
    queue.start()
    print("started", flush=True)
    while True:
        time.sleep(60)
