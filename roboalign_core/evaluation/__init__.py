"""Measuring: image metrics, intervals, videos and the report that shows them."""
