"""Several mirrors as one: what they know in a PostgreSQL database, what they have in a bucket."""
