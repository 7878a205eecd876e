"""A spoken conversation, apart from the command line that begins it."""
