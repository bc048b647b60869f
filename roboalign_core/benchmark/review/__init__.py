"""Annotation by people: a local web page that asks one rater after the other for the six scores of every pair."""
