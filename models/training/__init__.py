"""Training on the simulator or on given columns."""
