"""One module an engine, each with a class ``Driver``; see ``benchmarks.driver.Driver`` for what it does."""
