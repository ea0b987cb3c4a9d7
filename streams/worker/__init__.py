"""One process: the assembly of its parts, their life, and its pages.

The parts themselves are defined in the other folders.
"""
