"""The errors a user can meet and mend.

PathSegDiffError
|-- SettingsError        a setting or option is unknown or out of range
|-- ProjectError         the project cannot be read or written
|   `-- ImageDataError   one image's data.qpdata is damaged
|-- SlideError           one image file is missing, damaged or of an unsupported kind
|   |-- PixelSizeError   its pixel size is missing or absurd
|   `-- UndecodableError a part of its pixels cannot be decoded
|-- RegionError          nothing to segment, or an annotation that cannot be used
|-- TilingError          tile, stride and margin do not fit together
|-- JobError             the server cannot take or do a job
|   |-- RequestError       what was asked for cannot be understood or is too much
|   |-- ImagePathError     an image's address is no path that may be opened here
|   |   `-- ClosedFolderError  it lies outside of the folders that may be read
|   |-- QueueFullError     too many jobs are waiting
|   |-- UnknownJobError    there is no job of that id
|   `-- DiskFullError      a job cannot be kept: the disk refused to write
|-- ServerError          a server cannot start, or none can be reached
|-- ClusterError         a Dask cluster cannot be reached, or is lost: the run ends
`-- TaskError            no worker of a cluster can do its part of an image

model.errors.ModelError  stands beside the tree: `model` never imports this package
"""

from model.errors import ModelError


class PathSegDiffError(Exception):
    """Base of all expected errors: the message says what, which one, and what to do."""


class SettingsError(PathSegDiffError):
    """A setting or command-line option is unknown or out of range."""


class ProjectError(PathSegDiffError):
    """The QuPath project cannot be read or written."""


class ImageDataError(ProjectError):
    """An image's `data.qpdata` is damaged; it was left exactly as it is."""


class SlideError(PathSegDiffError):
    """An image file is missing, damaged, or of a kind that cannot be segmented."""


class PixelSizeError(SlideError):
    """An image's pixel size is missing or absurd."""


class UndecodableError(SlideError):
    """A part of an image's pixels cannot be decoded; other parts may well be."""


class RegionError(PathSegDiffError):
    """There is nothing to segment, or an annotation cannot be used as a region."""


class TilingError(PathSegDiffError):
    """Tile, stride and margin do not fit together."""


class JobError(PathSegDiffError):
    """The server cannot take or do a job."""


class RequestError(JobError):
    """What was asked for cannot be understood, or is too much.

    pointer: the JSON pointer (RFC 6901) of the field that is wrong, "" for the body; None where
    it is no one field. The message is for people, and has it by its name.
    """

    def __init__(self, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class ImagePathError(JobError):
    """An image's address is no path that may be opened on this machine."""


class ClosedFolderError(ImagePathError):
    """An image lies outside of the folders that may be read.

    folder: the one to open, or None where only the server's command line can open it.
    """

    def __init__(self, message: str, folder: str | None) -> None:
        super().__init__(message)
        self.folder = folder


class QueueFullError(JobError):
    """Too many jobs are waiting."""


class UnknownJobError(JobError):
    """There is no job of that id."""


class DiskFullError(JobError):
    """A job cannot be kept: the disk refused to write."""


class ServerError(PathSegDiffError):
    """A server cannot start, or none can be reached."""


class ClusterError(PathSegDiffError):
    """A Dask cluster cannot be reached or is lost; what is finished is kept."""


class TaskError(PathSegDiffError):
    """No worker of a cluster can do its part of an image; other images may well be done."""


EXPECTED_ERRORS = (PathSegDiffError, ModelError)
"""What a command reports as one sentence; anything else is a bug of ours."""
