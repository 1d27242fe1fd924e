"""A trained model behind HTTP: requests dream together, a web page shows them while they do."""
