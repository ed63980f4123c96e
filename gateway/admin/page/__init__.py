"""The pages of the admin listener: rendered here, kept up to date by a little JavaScript, complete without it."""
