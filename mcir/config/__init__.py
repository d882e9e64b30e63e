"""Option files: read strictly, merged, translated from old names, checked against the code, frozen."""

from mcir.config.json_schema import json_schema
from mcir.config.load import load, network_section, runs_of
from mcir.config.options import DatasetOptions, DistOptions, Options, PathOptions, Stage
from mcir.config.tree import OptionError

__all__ = [
    "DatasetOptions",
    "DistOptions",
    "OptionError",
    "Options",
    "PathOptions",
    "Stage",
    "json_schema",
    "load",
    "network_section",
    "runs_of",
]
