"""The edge that clients see, and the processes that face them."""
