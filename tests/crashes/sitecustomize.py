"""Imported by every Python process that has this folder on its PYTHONPATH."""

import crash_point

crash_point.arm()
