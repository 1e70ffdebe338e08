"""The scripts of QuPath's menu "PathSegDiff", and what they share. `scripts install` puts them."""
