"""Option files: read strictly, merged, translated from old names, checked against the code, frozen."""

from mcir.config.json_schema import json_schema
from mcir.config.load import load
from mcir.config.schema import DistOptions, Options, PathOptions
from mcir.config.tree import OptionError

__all__ = ["DistOptions", "OptionError", "Options", "PathOptions", "json_schema", "load"]
