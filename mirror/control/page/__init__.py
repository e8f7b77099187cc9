"""The operators' page: rendered here, kept up to date by server-sent events, no build step."""
