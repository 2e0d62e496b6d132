"""Numbers read off the tables of runs, which claims, figures and chapters share."""
