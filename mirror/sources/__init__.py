"""Where bytes by digest come from."""
