"""Tasks over whole files: batches that resume, and models compared on a user's own examples."""
