"""Read, merge, translate and validate option files."""

from mcir.config.files import schema_path
from mcir.config.json_schema import json_schema
from mcir.config.load import load, network_section, runs_of
from mcir.config.options import DatasetOptions, DistOptions, Options, PathOptions, Stage
from mcir.config.tree import NotImportedError, OptionError

__all__ = [
    "DatasetOptions",
    "DistOptions",
    "NotImportedError",
    "OptionError",
    "Options",
    "PathOptions",
    "Stage",
    "json_schema",
    "load",
    "network_section",
    "runs_of",
    "schema_path",
]
