"""The edge that faces registries: their URLs, their token servers, their moods."""
