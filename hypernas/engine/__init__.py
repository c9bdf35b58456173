"""Searches from start to end: who proposes, who scores, who remembers."""
