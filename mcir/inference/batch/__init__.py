"""Restore folders of images: what ``mcir restore`` does."""

from mcir.inference.batch.run import FolderSettings, restore_folder

__all__ = ["FolderSettings", "restore_folder"]
