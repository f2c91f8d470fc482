"""`likelier inspect`: the whole chain for one row, from each token's log-probability to the loss and its gradient."""
