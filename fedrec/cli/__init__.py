"""The command line: commands, progress display, doctor."""
