"""Plain PyTorch statements of published methods that have no installable package, for side-by-side timing."""
