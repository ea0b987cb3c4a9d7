"""Events of files and of the simulator as slices of a topic's fields, sent at a pace.

The command that does it is `streams.commands.produce`.
"""
