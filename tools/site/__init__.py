"""What `make docs` writes beside the pages of docs/: the reference of options, verbs and names, and the packages' own READMEs."""
