"""The experiment: the sections of the other packages, composed and read from YAML."""
