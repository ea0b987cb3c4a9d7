"""`streams train`: frozen models from simulated events."""

from __future__ import annotations

import click
