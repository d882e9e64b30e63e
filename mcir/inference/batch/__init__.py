"""Restore folders of images: what ``mcir restore`` does."""

from mcir.inference.batch.run import restore_folder
from mcir.inference.batch.settings import FolderSettings

__all__ = ["FolderSettings", "restore_folder"]
