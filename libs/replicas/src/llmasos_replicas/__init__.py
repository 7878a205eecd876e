"""Several copies of one model, each in a seat of a placement, behind a router."""
