"""chimera: the library under the session daemon. Importing it alone loads nothing heavy."""

__version__ = "0.1.0"
