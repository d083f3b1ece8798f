"""What can go wrong with data, each message one line that says what to do."""

from pathlib import Path


class DataError(Exception):
    """The data cannot be used as asked; the message names the file or folder and what is expected."""


class MissingDataError(DataError):
    """The files of a data set are not there and could not be downloaded."""


class ImageFolderError(DataError):
    """A folder is not laid out as an image folder, or its images do not go together."""


class UnreadableImageError(DataError):
    """An image file could not be decoded."""


class NoRoomForDataError(DataError):
    """The cache's disk is full. Another try may find room."""

    def __init__(self, folder: Path, needed_bytes: int) -> None:
        super().__init__(f"{folder}: no room for the decoded data: {needed_bytes / 2**20:.1f} MiB needed")
        self.folder = folder
        self.needed_bytes = needed_bytes


class AugmentError(DataError):
    """A policy that does not exist, or images it was not made for."""
