"""What survives a restart: blobs by digest, and the catalog of what they are."""
