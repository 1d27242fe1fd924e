"""A run as one HTML file that needs nothing else: curves, results, and dreams beside what the simulator shows.

``page`` writes the report of a run, ``compare`` sets two runs side by side, ``export`` writes the dreams as files.
Nothing is loaded from the network: styles, the script and all pictures are inside the file.
"""
