"""Training from dense to sparse: optimizers for models that take a plan."""
