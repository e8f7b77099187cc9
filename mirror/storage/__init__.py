"""This node's disk: blobs by digest, partials by upstream, and what is recorded of them."""
