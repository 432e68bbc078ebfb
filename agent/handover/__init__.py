"""Live connections go from one worker to its successor: what both say to each other, and how they carry it out."""
