"""A cluster emulator for one question: when is a page finished with?"""

__version__ = "0.1.0"
