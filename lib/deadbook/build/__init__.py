"""Executed chapters, the pages made from results, and the site."""
