"""Declared data and saved work for every notebook session."""

__version__ = "0.1.0"
