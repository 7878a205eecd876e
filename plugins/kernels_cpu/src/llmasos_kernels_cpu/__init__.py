"""Matrix products on CPUs with weights as quantised models store them."""
