"""One process: its parts put together, their life, and its pages.

No part is defined here: this is the top floor.
"""
