"""Blobs that cannot be kept: from upstream to their readers, past the disk."""
