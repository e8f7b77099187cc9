"""What a pull-through mirror decides: what to answer, from where, and whether it is still true."""
