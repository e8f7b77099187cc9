"""`mirror export` and `mirror import`: the tar, and what happens with it."""
