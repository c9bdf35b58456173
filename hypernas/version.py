"""The version, without reading installed metadata."""

__version__ = "0.1.0"
