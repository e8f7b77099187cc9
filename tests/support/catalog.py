"""The catalog of older mirrors, which the index and the records take over."""

from pathlib import Path

CATALOG_V1 = Path(__file__).with_name("catalog_v1.sql").read_text("utf-8")
"""What made its tables, word for word."""
