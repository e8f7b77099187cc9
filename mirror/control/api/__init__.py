"""The operators' API: `/api/v1`, described by the same models that it answers with."""
