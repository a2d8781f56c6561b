"""The pictures of the pages, drawn when they are built: a module for each page, a function for each picture."""
