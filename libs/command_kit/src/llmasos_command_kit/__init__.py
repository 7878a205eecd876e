"""What the verbs of the command line share, those of core and those of plugins."""
