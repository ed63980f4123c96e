"""Rules about the project itself: its files, its locks, its examples and its documentation."""
