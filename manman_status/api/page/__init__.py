"""What people look at in a browser: pages that the api renders, with all the files they need."""
