"""Jobs: segment an image or train a head, queued, durable, done one at a time by a child process.

Nothing here loads a deep-learning framework; the child process does.
"""

from qupath_bridge.jobs.folder import JobFolder
from qupath_bridge.jobs.job import Job
from qupath_bridge.jobs.queue import JobQueue, QueueSettings
from qupath_bridge.jobs.request import JobRequest, RequestLimits, parse_job

__all__ = [
    "Job",
    "JobFolder",
    "JobQueue",
    "JobRequest",
    "QueueSettings",
    "RequestLimits",
    "parse_job",
]
