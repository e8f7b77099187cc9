"""The edge that clients see: HTTP in, HTTP out."""
