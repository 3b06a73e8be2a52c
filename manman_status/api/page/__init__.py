"""Pages for people, rendered by the api with all the files they need."""
